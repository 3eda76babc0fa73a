// The output gradient tensor, f32, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(3)
var<storage, read> output_gradient: array<f32>;

/// Components past the end repeat the last element; the caller masks them.
fn load_output_gradient(unit: u32) -> vec4<f32> {
    let at = 4u * unit;
    let last = params.elements - 1u;
    return vec4<f32>(output_gradient[min(at, last)], output_gradient[min(at + 1u, last)], output_gradient[min(at + 2u, last)], output_gradient[min(at + 3u, last)]);
}
