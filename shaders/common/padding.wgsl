// Which elements are padding: a record a segment (valid elements; the first of them, the last, and the first in the second
// half of the segment, as indices among its positions), then a bit an element.

@group(0) @binding(22)
var<storage, read> valid: array<u32>;

/// Which elements of a unit are valid.
fn load_valid(unit: u32) -> vec4<bool> {
    let at = params.valid_unit + unit;
    let bits = valid[params.valid_bits + at / 8u] >> (4u * (at % 8u));
    return (vec4<u32>(bits) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>();
}

fn valid_record(segment: u32) -> vec4<u32> {
    let at = 4u * (params.valid_base + segment);
    return vec4<u32>(valid[at], valid[at + 1u], valid[at + 2u], valid[at + 3u]);
}
