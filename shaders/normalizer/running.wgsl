// Recorded statistics: a running mean and variance a channel.

@group(0) @binding(6)
var<storage, read> running_mean: array<f32>;
@group(0) @binding(7)
var<storage, read> running_variance: array<f32>;

/// (pivot, offset, inverse deviation); the mean is the pivot.
fn normalizer_at(channel: u32) -> vec3<f32> {
    return vec3<f32>(running_mean[channel], 0.0, inverse_deviation(running_variance[channel], params.epsilon));
}
