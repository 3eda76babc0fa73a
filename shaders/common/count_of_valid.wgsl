// Elements of a channel, where padding may not count: what follows depends on the channel's segment.

@group(0) @binding(22)
var<storage, read> valid: array<u32>;

fn count_of(channel: u32) -> u32 {
    if !has(HAS_VALID) {
        return params.count;
    }
    return valid[4u * (params.valid_base + segment_of(channel))];
}

/// A sum over W elements divided by W; 0 where there are none.
fn mean_of(sum: vec4<f32>, channels: vec4<u32>) -> vec4<f32> {
    if !has(HAS_VALID) {
        return fma(sum, vec4<f32>(params.inverse_count), sum * params.inverse_count_residual);
    }
    let counts = vec4<u32>(count_of(channels.x), count_of(channels.y), count_of(channels.z), count_of(channels.w));
    return sum / max(vec4<f32>(counts), vec4<f32>(1.0));
}

/// Factor on the population variance that the running variance takes.
fn variance_factor(channel: u32) -> f32 {
    let count = count_of(channel);
    if !has(HAS_VALID) || !has(UNBIASED) || count < 2u {
        return params.variance_factor;
    }
    return f32(count) / f32(count - 1u);
}

/// Whether the channel has elements enough to update running statistics.
fn has_enough(channel: u32) -> bool {
    let count = count_of(channel);
    return !has(HAS_VALID) || count > 1u || (count == 1u && has(UPDATES_FROM_ONE));
}
