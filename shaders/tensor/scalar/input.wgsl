// The input tensor, f32, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(1)
var<storage, read> input: array<f32>;

/// Components past the end repeat the last element; the caller masks them.
fn load_input(unit: u32) -> vec4<f32> {
    let at = 4u * unit;
    let last = params.elements - 1u;
    return vec4<f32>(input[min(at, last)], input[min(at + 1u, last)], input[min(at + 2u, last)], input[min(at + 3u, last)]);
}
