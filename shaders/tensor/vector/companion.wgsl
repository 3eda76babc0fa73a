// The companion tensor, f32, whole units.
// A tensor beside the input: the residual that forward added, or the output, whose signs tell the activation's derivative.

@group(0) @binding(14)
var<storage, read> companion: array<vec4<f32>>;

fn load_companion(unit: u32) -> vec4<f32> {
    return companion[unit];
}
