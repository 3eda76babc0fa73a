// The output tensor, f32, whole units.

@group(0) @binding(2)
var<storage, read_write> output: array<vec4<f32>>;

fn store_output(unit: u32, values: vec4<f32>) {
    output[unit] = values;
}

/// Stores the components with a true mask, and leaves the others to whoever writes them at the same time.
fn store_output_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    if mask.x {
        output[unit].x = values.x;
    }
    if mask.y {
        output[unit].y = values.y;
    }
    if mask.z {
        output[unit].z = values.z;
    }
    if mask.w {
        output[unit].w = values.w;
    }
}
