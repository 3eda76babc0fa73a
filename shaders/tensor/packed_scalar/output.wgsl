// The output tensor, 16 bits an element, for element counts that are no multiple of four: the last unit is partial.

@group(0) @binding(2)
var<storage, read_write> output: array<u32>;

/// Stores the elements with a true mask, which are the first ones of the unit. What shares a word with the last is 0.
fn store_output_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    let at = 2u * unit;
    let results = values;
    let words = packed(select(vec4<f32>(), results, mask));
    if mask.x {
        output[at] = words.x;
    }
    if mask.z {
        output[at + 1u] = words.y;
    }
}
