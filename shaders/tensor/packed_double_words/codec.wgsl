// A unit of a tensor of 16 bits an element in one 64-bit integer, as in the other codec of double words.

fn halves(word: u64) -> vec4<f32> {
    return unpacked(vec2<u32>(u32(word), u32(word >> 32u)));
}
