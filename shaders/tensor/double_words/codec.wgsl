// Two numbers of a tensor in one 64-bit integer: a driver that loads number by number makes half as many loads. Needs 64-bit
// integers, which WGSL has not; naga takes them where a device has wgpu's feature.

/// The first of two in the low half.
fn halves(words: vec2<u64>) -> vec4<f32> {
    let low = vec2<u32>(words);
    let high = vec2<u32>(words >> vec2<u32>(32u));
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}
