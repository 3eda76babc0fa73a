// The output gradient tensor, 16 bits an element, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(3)
var<storage, read> output_gradient: array<u32>;

/// Components past the end hold anything; the caller masks them.
fn load_output_gradient(unit: u32) -> vec4<f32> {
    let at = 2u * unit;
    let last = (params.elements - 1u) / 2u;
    return unpacked(vec2<u32>(output_gradient[min(at, last)], output_gradient[min(at + 1u, last)]));
}
