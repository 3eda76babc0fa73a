// Batch renormalization, as forward recorded it: (scale R, shift D) a channel.

@group(0) @binding(24)
var<storage, read> renormalization: array<vec2<f32>>;

fn renormalization_at(channel: u32) -> vec2<f32> {
    let index = select(0u, channel, has(RENORMALIZES));
    return select(vec2<f32>(1.0, 0.0), renormalization[index], has(RENORMALIZES));
}
