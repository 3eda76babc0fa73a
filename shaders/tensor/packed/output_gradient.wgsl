// The output gradient tensor, 16 bits an element, whole units.

@group(0) @binding(3)
var<storage, read> output_gradient: array<vec2<u32>>;

fn load_output_gradient(unit: u32) -> vec4<f32> {
    return unpacked(output_gradient[unit]);
}
