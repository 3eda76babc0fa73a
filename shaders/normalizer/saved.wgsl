// Statistics of the batch: one record (pivot, offset, inverse deviation, variance) a channel.

@group(0) @binding(5)
var<storage, read> statistics: array<vec4<f32>>;

/// (pivot, offset, inverse deviation); the mean is pivot + offset.
fn normalizer_at(channel: u32) -> vec3<f32> {
    return statistics[channel].xyz;
}
