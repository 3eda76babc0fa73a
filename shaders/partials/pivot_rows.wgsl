// A pivot for what is merged, of a place with one channel, none of whose slots is empty.

/// The pivot of slot 0, for all components.
fn pivot_of_first(channels: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(slots_at(0u, channels).pivot.x);
}
