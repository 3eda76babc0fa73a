// The output gradient tensor, 16 bits an element, whole units, at once.

@group(0) @binding(3)
var<storage, read> output_gradient: array<u64>;

fn load_output_gradient(unit: u32) -> vec4<f32> {
    return halves(output_gradient[unit]);
}
