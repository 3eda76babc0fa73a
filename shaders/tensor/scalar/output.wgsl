// The output tensor, f32, by elements: where units are shared with neighbours, who write their elements at the same
// time, or do not exist in full. A store to a component of a vector may touch the whole vector, so vectors will not do.

@group(0) @binding(2)
var<storage, read_write> output: array<f32>;

/// Stores the elements with a true mask.
fn store_output_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    let at = 4u * unit;
    if mask.x {
        output[at] = values.x;
    }
    if mask.y {
        output[at + 1u] = values.y;
    }
    if mask.z {
        output[at + 2u] = values.z;
    }
    if mask.w {
        output[at + 3u] = values.w;
    }
}
