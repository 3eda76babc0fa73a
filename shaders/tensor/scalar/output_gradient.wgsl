// The output gradient tensor, f32, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(3)
var<storage, read> output_gradient: array<f32>;

/// Components past the end repeat the last element; the caller masks them.
fn load_output_gradient(unit: u32) -> vec4<f32> {
    let at = min(vec4<u32>(unit * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.elements - 1u));
    return vec4<f32>(output_gradient[at.x], output_gradient[at.y], output_gradient[at.z], output_gradient[at.w]);
}
