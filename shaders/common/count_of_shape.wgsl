// Elements of a channel, where all of them count: what follows is the same for all channels, and comes from the host.

/// A sum over M elements divided by M; one rounding where `fma` is fused, two elsewhere.
fn mean_of(sum: vec4<f32>, channels: vec4<u32>) -> vec4<f32> {
    return fma(sum, vec4<f32>(params.inverse_count), sum * params.inverse_count_residual);
}

/// Factor on the population variance that the running variance takes.
fn variance_factor(channel: u32) -> f32 {
    return params.variance_factor;
}

/// Whether the channel has elements enough to update running statistics.
fn has_enough(channel: u32) -> bool {
    return true;
}

fn count_of(channel: u32) -> u32 {
    return params.count;
}
