// The output gradient tensor, f32, whole units, two elements at once.

@group(0) @binding(3)
var<storage, read> output_gradient: array<vec2<u64>>;

fn load_output_gradient(unit: u32) -> vec4<f32> {
    return halves(output_gradient[unit]);
}
