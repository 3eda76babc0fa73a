// The activation mask, read: bit e % 32 of word e / 32 is 1 where the pre-activation of element e was positive.

@group(0) @binding(15)
var<storage, read> activation_mask: array<u32>;

fn load_signs(unit: u32) -> vec4<bool> {
    let at = params.mask_unit + unit;
    let bits = activation_mask[at / 8u] >> (4u * (at % 8u));
    return (vec4<u32>(bits) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>();
}
