// The input gradient tensor, 16 bits an element, for element counts that are no multiple of four: the last unit is partial. Overwritten or added to.

@group(0) @binding(4)
var<storage, read_write> input_gradient: array<u32>;

override INPUT_GRADIENT: u32;

/// Stores the elements with a true mask, which are the first ones of the unit, or adds to them. What shares a word with the last is 0.
fn store_input_gradient_masked(unit: u32, values: vec4<f32>, mask: vec4<bool>) {
    let at = 2u * unit;
    var results = values;
    if INPUT_GRADIENT == ACCUMULATED {
        let last = (params.elements - 1u) / 2u;
        results += unpacked(vec2<u32>(input_gradient[min(at, last)], input_gradient[min(at + 1u, last)]));
    }
    let words = packed(select(vec4<f32>(), results, mask));
    if mask.x {
        input_gradient[at] = words.x;
    }
    if mask.z {
        input_gradient[at + 1u] = words.y;
    }
}
