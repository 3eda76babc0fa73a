// The output tensor, f32, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(2)
var<storage, read_write> output: array<f32>;

fn store_output(unit: u32, values: vec4<f32>) {
    let at = 4u * unit;
    if at + 3u < params.elements {
        output[at] = values.x;
        output[at + 1u] = values.y;
        output[at + 2u] = values.z;
        output[at + 3u] = values.w;
        return;
    }
    for (var component = 0u; at + component < params.elements; component++) {
        output[at + component] = values[component];
    }
}

/// Stores the components with a true mask, all of which exist.
fn store_output_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    let at = 4u * unit;
    for (var component = 0u; component < 4u; component++) {
        if mask[component] {
            output[at + component] = values[component];
        }
    }
}
