// 16-bit elements, two a word, the first in the lower half: bfloat16, or IEEE binary16.

override BRAIN_FLOAT: bool;

fn unpacked(words: vec2<u32>) -> vec4<f32> {
    let upper = vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u);
    if BRAIN_FLOAT {
        return bitcast<vec4<f32>>(upper);
    }
    return from_binary16s(upper);
}

/// Exact, by integers: `unpack2x16float` is not there on every device, and may flush what is small. Halves come in the upper
/// bits.
fn from_binary16s(upper: vec4<u32>) -> vec4<f32> {
    // Exponent and mantissa where f32 has them; the exponent's bias goes from 15 to 127.
    let magnitude = (upper & vec4<u32>(0x7fffffffu)) >> vec4<u32>(3u);
    let normal = magnitude + vec4<u32>(0x38000000u);
    // Below 2⁻¹⁴: the mantissa behind a leading one that is there for normal numbers only, which a difference takes away.
    let subnormal = bitcast<vec4<u32>>(bitcast<vec4<f32>>(magnitude + vec4<u32>(0x38800000u)) - vec4<f32>(0.00006103515625));
    let finite = select(normal, subnormal, magnitude < vec4<u32>(0x00800000u));
    let bits = select(finite, magnitude | vec4<u32>(0x7f800000u), magnitude >= vec4<u32>(0x0f800000u));
    return bitcast<vec4<f32>>(bits | (upper & vec4<u32>(0x80000000u)));
}

/// Rounded to nearest, ties to even: how `pack2x16float` rounds is left to the driver. By integers, but for binary16 below
/// 2⁻¹⁴, which an addition in f32 rounds; every driver is tested for it.
fn packed(values: vec4<f32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(values);
    var halves: vec4<u32>;
    if BRAIN_FLOAT {
        halves = brain_floats(bits);
    } else {
        halves = binary16s(bits);
    }
    return vec2<u32>(halves.x | (halves.y << 16u), halves.z | (halves.w << 16u));
}

fn brain_floats(bits: vec4<u32>) -> vec4<u32> {
    let rounded = (bits + vec4<u32>(0x7fffu) + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
    // Rounding could turn a NaN into an infinity.
    let quiet = (bits >> vec4<u32>(16u)) | vec4<u32>(0x40u);
    return select(rounded, quiet, (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u));
}

fn binary16s(bits: vec4<u32>) -> vec4<u32> {
    let sign = (bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u);
    let magnitude = bits & vec4<u32>(0x7fffffffu);
    // The exponent's bias goes from 127 to 15, and 13 bits are rounded away.
    let normal = (magnitude - vec4<u32>(0x38000000u) + vec4<u32>(0xfffu) + ((magnitude >> vec4<u32>(13u)) & vec4<u32>(1u)))
        >> vec4<u32>(13u);
    // Below 2⁻¹⁴ the last place is 2⁻²⁴, which is the last place of f32 from 0.5 on: the addition rounds.
    let subnormal = bitcast<vec4<u32>>(bitcast<vec4<f32>>(min(magnitude, vec4<u32>(0x38800000u))) + vec4<f32>(0.5))
        - vec4<u32>(0x3f000000u);
    let finite = min(select(normal, subnormal, magnitude < vec4<u32>(0x38800000u)), vec4<u32>(0x7c00u));
    return sign | select(finite, vec4<u32>(0x7e00u), magnitude > vec4<u32>(0x7f800000u));
}
