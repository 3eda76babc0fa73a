// The output tensor, f32, whole units.

@group(0) @binding(2)
var<storage, read_write> output: array<vec4<f32>>;

fn store_output(unit: u32, values: vec4<f32>) {
    output[unit] = values;
}
