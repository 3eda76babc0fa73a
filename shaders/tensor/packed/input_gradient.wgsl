// The input gradient tensor, 16 bits an element, whole units. Overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<vec2<u32>>;

override INPUT_GRADIENT: u32;

fn store_input_gradient(unit: u32, values: vec4<f32>) {
    if INPUT_GRADIENT == ACCUMULATED {
        input_gradient[unit] = packed(unpacked(input_gradient[unit]) + values);
    } else {
        input_gradient[unit] = packed(values);
    }
}
