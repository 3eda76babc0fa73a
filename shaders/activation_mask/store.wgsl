// The activation mask, written: bit e % 32 of word e / 32 is 1 where the pre-activation of element e is positive. Eight units
// share a word and may belong to different workgroups; each flips those of its bits that are wrong.

@group(0) @binding(15)
var<storage, read_write> activation_mask: array<atomic<u32>>;

/// Stores the bits of the elements with a true mask.
fn store_signs_masked(unit: u32, positive: vec4<bool>, mask: vec4<bool>) {
    let at = params.mask_unit + unit;
    let shift = 4u * (at % 8u);
    let wanted = bits_of(positive) << shift;
    let wrong = (atomicLoad(&activation_mask[at / 8u]) ^ wanted) & (bits_of(mask) << shift);
    if wrong != 0u {
        atomicXor(&activation_mask[at / 8u], wrong);
    }
}

fn bits_of(values: vec4<bool>) -> u32 {
    let bits = select(vec4<u32>(), vec4<u32>(1u, 2u, 4u, 8u), values);
    return (bits.x | bits.y) | (bits.z | bits.w);
}
