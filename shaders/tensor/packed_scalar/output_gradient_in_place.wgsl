// The output gradient tensor where the input gradient takes its place: one binding, read before it is written.

/// Components past the end hold anything; the caller masks them.
fn load_output_gradient(unit: u32) -> vec4<f32> {
    let at = 2u * unit;
    let last = (params.elements - 1u) / 2u;
    return unpacked(vec2<u32>(input_gradient[min(at, last)], input_gradient[min(at + 1u, last)]));
}
