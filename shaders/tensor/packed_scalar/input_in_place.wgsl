// The input tensor where the output takes its place: one binding, read before it is written.

/// Components past the end hold anything; the caller masks them.
fn load_input(unit: u32) -> vec4<f32> {
    let at = 2u * unit;
    let last = (params.elements - 1u) / 2u;
    return unpacked(vec2<u32>(output[min(at, last)], output[min(at + 1u, last)]));
}
