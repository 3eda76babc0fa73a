// The companion tensor, 16 bits an element, for element counts that are no multiple of four: the last unit is partial.
// A tensor beside the input: the residual that forward added, or the output, whose signs tell the activation's derivative.

@group(0) @binding(14)
var<storage, read> companion: array<u32>;

/// Components past the end hold anything; the caller masks them.
fn load_companion(unit: u32) -> vec4<f32> {
    let at = 2u * unit;
    let last = (params.elements - 1u) / 2u;
    return unpacked(vec2<u32>(companion[min(at, last)], companion[min(at + 1u, last)]));
}
