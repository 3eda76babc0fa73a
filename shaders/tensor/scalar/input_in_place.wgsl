// The input tensor where the output takes its place: one binding, read before it is written.

/// Components past the end repeat the last element; the caller masks them.
fn load_input(unit: u32) -> vec4<f32> {
    let at = 4u * unit;
    let last = params.elements - 1u;
    return vec4<f32>(output[min(at, last)], output[min(at + 1u, last)], output[min(at + 2u, last)], output[min(at + 3u, last)]);
}
