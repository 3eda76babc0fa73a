// Stochastic gradient descent with momentum, as PyTorch has it:
//
//     velocity = momentum · velocity + gradient      parameter −= learning_rate · velocity
//
// One invocation per parameter.

struct Settings {
    learning_rate: f32,
    momentum: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(3) var<storage, read_write> velocities: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&parameters) {
        let velocity = settings.momentum * velocities[id.x] + gradients[id.x];
        velocities[id.x] = velocity;
        parameters[id.x] -= settings.learning_rate * velocity;
    }
}
