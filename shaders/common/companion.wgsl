// What the companion tensor is to this pipeline, as a constant.

override COMPANION: u32;

const NO_COMPANION: u32 = 0u;
/// The residual that forward added.
const RESIDUAL: u32 = 1u;
/// The output.
const OUTPUT: u32 = 2u;

fn companion_at(unit: u32) -> vec4<f32> {
    if COMPANION == NO_COMPANION {
        return vec4<f32>();
    }
    return load_companion(unit);
}
