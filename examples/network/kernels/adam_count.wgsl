// Counts a step of Adam: β₁ᵗ and β₂ᵗ become those of the next t. They start at 1. One invocation.

struct Settings {
    learning_rate: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> powers: vec2<f32>;

@compute @workgroup_size(1)
fn main() {
    powers *= vec2(settings.beta_1, settings.beta_2);
}
