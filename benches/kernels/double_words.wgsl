// What a yardstick takes at once: sixteen bytes as two 64-bit integers.

alias Unit = vec2<u64>;

fn numbers(unit: Unit) -> vec4<f32> {
    let low = vec2<u32>(unit);
    let high = vec2<u32>(unit >> vec2<u32>(32u));
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}
