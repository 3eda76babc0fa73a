// The output gradient tensor where the input gradient takes its place: one binding, read before it is written.

/// Components past the end repeat the last element; the caller masks them.
fn load_output_gradient(unit: u32) -> vec4<f32> {
    let at = 4u * unit;
    let last = params.elements - 1u;
    return vec4<f32>(input_gradient[min(at, last)], input_gradient[min(at + 1u, last)], input_gradient[min(at + 2u, last)], input_gradient[min(at + 3u, last)]);
}
