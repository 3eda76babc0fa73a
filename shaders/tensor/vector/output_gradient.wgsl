// The output gradient tensor, f32, whole units.

@group(0) @binding(3)
var<storage, read> output_gradient: array<vec4<f32>>;

fn load_output_gradient(unit: u32) -> vec4<f32> {
    return output_gradient[unit];
}
