// The companion tensor, f32, whole units, two elements at once.
// A tensor beside the input: the residual that forward added, or the output, whose signs tell the activation's derivative.

@group(0) @binding(14)
var<storage, read> companion: array<vec2<u64>>;

fn load_companion(unit: u32) -> vec4<f32> {
    return halves(companion[unit]);
}
