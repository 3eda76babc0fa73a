// The input tensor, f32, whole units, two elements at once.

@group(0) @binding(1)
var<storage, read> input: array<vec2<u64>>;

fn load_input(unit: u32) -> vec4<f32> {
    return halves(input[unit]);
}
