// The input gradient tensor, f32, for element counts that are no multiple of four; overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<f32>;

fn store_input_gradient(unit: u32, values: vec4<f32>) {
    let at = 4u * unit;
    if at + 3u < params.elements {
        var sums = values;
        if has(ACCUMULATES_INPUT_GRADIENT) {
            sums += vec4<f32>(
                input_gradient[at],
                input_gradient[at + 1u],
                input_gradient[at + 2u],
                input_gradient[at + 3u],
            );
        }
        input_gradient[at] = sums.x;
        input_gradient[at + 1u] = sums.y;
        input_gradient[at + 2u] = sums.z;
        input_gradient[at + 3u] = sums.w;
        return;
    }
    for (var component = 0u; at + component < params.elements; component++) {
        let before = select(0.0, input_gradient[at + component], has(ACCUMULATES_INPUT_GRADIENT));
        input_gradient[at + component] = before + values[component];
    }
}

/// Stores the components with a true mask, all of which exist.
fn store_input_gradient_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    let at = 4u * unit;
    for (var component = 0u; component < 4u; component++) {
        if mask[component] {
            let before = select(0.0, input_gradient[at + component], has(ACCUMULATES_INPUT_GRADIENT));
            input_gradient[at + component] = before + values[component];
        }
    }
}
