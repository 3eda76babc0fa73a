// The normaliser of four channels at once; depends on `normalizer_at`.

fn normalizers_at(channels: vec4<u32>) -> Normalizer {
    let x = normalizer_at(channels.x);
    let y = normalizer_at(channels.y);
    let z = normalizer_at(channels.z);
    let w = normalizer_at(channels.w);
    return normalizer_of(
        vec4<f32>(x.x, y.x, z.x, w.x),
        vec4<f32>(x.y, y.y, z.y, w.y),
        vec4<f32>(x.z, y.z, z.z, w.z),
    );
}
