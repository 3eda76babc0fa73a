// The input gradient tensor, f32, whole units; overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<vec4<f32>>;

fn store_input_gradient(unit: u32, values: vec4<f32>) {
    if has(ACCUMULATES_INPUT_GRADIENT) {
        input_gradient[unit] += values;
    } else {
        input_gradient[unit] = values;
    }
}

/// Stores the components with a true mask, and leaves the others to whoever writes them at the same time.
fn store_input_gradient_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    if mask.x {
        input_gradient[unit].x = select(0.0, input_gradient[unit].x, has(ACCUMULATES_INPUT_GRADIENT)) + values.x;
    }
    if mask.y {
        input_gradient[unit].y = select(0.0, input_gradient[unit].y, has(ACCUMULATES_INPUT_GRADIENT)) + values.y;
    }
    if mask.z {
        input_gradient[unit].z = select(0.0, input_gradient[unit].z, has(ACCUMULATES_INPUT_GRADIENT)) + values.z;
    }
    if mask.w {
        input_gradient[unit].w = select(0.0, input_gradient[unit].w, has(ACCUMULATES_INPUT_GRADIENT)) + values.w;
    }
}
