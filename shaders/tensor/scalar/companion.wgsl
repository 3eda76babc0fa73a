// The companion tensor, f32, for element counts that are no multiple of four: the last unit is partial.
// A tensor beside the input: the residual that forward added, or the output, whose signs tell the activation's derivative.

@group(0) @binding(14)
var<storage, read> companion: array<f32>;

/// Components past the end repeat the last element; the caller masks them.
fn load_companion(unit: u32) -> vec4<f32> {
    let at = 4u * unit;
    let last = params.elements - 1u;
    return vec4<f32>(companion[min(at, last)], companion[min(at + 1u, last)], companion[min(at + 2u, last)], companion[min(at + 3u, last)]);
}
