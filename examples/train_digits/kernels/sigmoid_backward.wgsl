// input_gradient = output_gradient · output · (1 − output), one invocation per vec4.

@group(0) @binding(0) var<storage, read> output: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> output_gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> input_gradient: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&input_gradient) {
        let y = output[id.x];
        input_gradient[id.x] = output_gradient[id.x] * y * (1.0 - y);
    }
}
