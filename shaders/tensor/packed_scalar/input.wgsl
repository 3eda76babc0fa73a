// The input tensor, 16 bits an element, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(1)
var<storage, read> input: array<u32>;

/// Components past the end hold anything; the caller masks them.
fn load_input(unit: u32) -> vec4<f32> {
    let at = 2u * unit;
    let last = (params.elements - 1u) / 2u;
    return unpacked(vec2<u32>(input[min(at, last)], input[min(at + 1u, last)]));
}
