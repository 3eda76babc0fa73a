// The input tensor, f32, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(1)
var<storage, read> input: array<f32>;

/// Components past the end repeat the last element; the caller masks them.
fn load_input(unit: u32) -> vec4<f32> {
    let at = min(vec4<u32>(unit * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.elements - 1u));
    return vec4<f32>(input[at.x], input[at.y], input[at.z], input[at.w]);
}
