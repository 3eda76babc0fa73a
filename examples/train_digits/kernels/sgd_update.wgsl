// parameters −= learning_rate · gradients: plain stochastic gradient descent over all parameters at once.
//
// One invocation per vec4.

@group(0) @binding(0) var<uniform> learning_rate: f32;
@group(0) @binding(1) var<storage, read> gradients: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parameters: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&parameters) {
        parameters[id.x] -= learning_rate * gradients[id.x];
    }
}
