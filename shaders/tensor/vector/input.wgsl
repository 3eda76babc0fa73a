// The input tensor, f32, whole units.

@group(0) @binding(1)
var<storage, read> input: array<vec4<f32>>;

fn load_input(unit: u32) -> vec4<f32> {
    return input[unit];
}
