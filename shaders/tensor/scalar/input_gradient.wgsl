// The input gradient tensor, f32, for element counts that are no multiple of four; overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<f32>;

fn store_input_gradient(unit: u32, values: vec4<f32>) {
    let at = unit * 4u;
    for (var component = 0u; component < 4u; component++) {
        if at + component < params.elements {
            if has(ACCUMULATES_INPUT_GRADIENT) {
                input_gradient[at + component] += values[component];
            } else {
                input_gradient[at + component] = values[component];
            }
        }
    }
}
