// The input tensor, 16 bits an element, whole units.

@group(0) @binding(1)
var<storage, read> input: array<vec2<u32>>;

fn load_input(unit: u32) -> vec4<f32> {
    return unpacked(input[unit]);
}
