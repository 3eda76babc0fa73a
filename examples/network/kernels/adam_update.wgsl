// Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1). One invocation per parameter.

struct Settings {
    learning_rate: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<storage, read_write> parameters: array<f32>;
// The averages of the gradient and of its square.
@group(0) @binding(3) var<storage, read_write> moments: array<vec2<f32>>;
// β₁ᵗ and β₂ᵗ of step t, see adam_count.wgsl.
@group(0) @binding(4) var<storage, read> powers: vec2<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&parameters) {
        return;
    }
    let betas = vec2(settings.beta_1, settings.beta_2);
    let gradient = gradients[id.x];
    let average = betas * moments[id.x] + (1.0 - betas) * vec2(gradient, gradient * gradient);
    moments[id.x] = average;
    let corrected = average / (1.0 - powers);
    parameters[id.x] -= settings.learning_rate * corrected.x / (sqrt(corrected.y) + settings.epsilon);
}
