// The output tensor, f32, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(2)
var<storage, read_write> output: array<f32>;

fn store_output(unit: u32, values: vec4<f32>) {
    let at = unit * 4u;
    for (var component = 0u; component < 4u; component++) {
        if at + component < params.elements {
            output[at + component] = values[component];
        }
    }
}
