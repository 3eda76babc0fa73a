// The output tensor, 16 bits an element, whole units.

@group(0) @binding(2)
var<storage, read_write> output: array<vec2<u32>>;

fn store_output(unit: u32, values: vec4<f32>) {
    output[unit] = packed(values);
}
