// The input gradient tensor, f32, whole units. Overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<vec4<f32>>;

fn store_input_gradient(unit: u32, values: vec4<f32>) {
    if has(ACCUMULATES_INPUT_GRADIENT) {
        input_gradient[unit] += values;
    } else {
        input_gradient[unit] = values;
    }
}
