// The input gradient tensor, f32, by elements: where units are shared with neighbours, who write their elements at the same
// time, or do not exist in full. A store to a component of a vector may touch the whole vector, so vectors will not do. Overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<f32>;

override INPUT_GRADIENT: u32;

/// Stores the elements with a true mask, or adds to them.
fn store_input_gradient_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    let at = 4u * unit;
    if mask.x {
        store_input_gradient_element(at, values.x);
    }
    if mask.y {
        store_input_gradient_element(at + 1u, values.y);
    }
    if mask.z {
        store_input_gradient_element(at + 2u, values.z);
    }
    if mask.w {
        store_input_gradient_element(at + 3u, values.w);
    }
}

fn store_input_gradient_element(at: u32, value: f32) {
    if INPUT_GRADIENT == ACCUMULATED {
        input_gradient[at] += value;
    } else {
        input_gradient[at] = value;
    }
}
