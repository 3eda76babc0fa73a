// The residual gradient tensor, 16 bits an element, whole units. Overwritten or added to.

@group(0) @binding(16)
var<storage, read_write> residual_gradient: array<vec2<u32>>;

override RESIDUAL_GRADIENT: u32;

fn store_residual_gradient(unit: u32, values: vec4<f32>) {
    if RESIDUAL_GRADIENT == ACCUMULATED {
        residual_gradient[unit] = packed(unpacked(residual_gradient[unit]) + values);
    } else {
        residual_gradient[unit] = packed(values);
    }
}
