// The input gradient tensor, f32, whole units. Overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<vec4<f32>>;

override INPUT_GRADIENT: u32;

fn store_input_gradient(unit: u32, values: vec4<f32>) {
    if INPUT_GRADIENT == ACCUMULATED {
        input_gradient[unit] += values;
    } else {
        input_gradient[unit] = values;
    }
}
