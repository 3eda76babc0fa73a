// The input tensor, 16 bits an element, whole units, at once.

@group(0) @binding(1)
var<storage, read> input: array<u64>;

fn load_input(unit: u32) -> vec4<f32> {
    return halves(input[unit]);
}
