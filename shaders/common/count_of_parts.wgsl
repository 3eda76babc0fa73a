// Elements of a channel in all parts of a batch, which only the device knows.

/// Saturating.
fn count_of(channel: u32) -> u32 {
    var total = 0u;
    for (var part = 0u; part < params.parts; part++) {
        let count = moments[part * params.channels + channel].x;
        total = select(total + count, 0xffffffffu, total > 0xffffffffu - count);
    }
    return total;
}

/// The same where there are more than a u32 counts.
fn elements_of(channel: u32) -> f32 {
    var low = 0u;
    var high = 0u;
    for (var part = 0u; part < params.parts; part++) {
        let count = moments[part * params.channels + channel].x;
        low += count;
        high += select(0u, 1u, low < count);
    }
    return f32(high) * 4294967296.0 + f32(low);
}

/// A sum over all elements divided by their number; 0 where there are none.
fn mean_of(sum: vec4<f32>, channels: vec4<u32>) -> vec4<f32> {
    let counts = vec4<f32>(
        elements_of(channels.x),
        elements_of(channels.y),
        elements_of(channels.z),
        elements_of(channels.w),
    );
    return sum / max(counts, vec4<f32>(1.0));
}

/// Factor on the population variance that the running variance takes.
fn variance_factor(channel: u32) -> f32 {
    let count = count_of(channel);
    if !has(UNBIASED) || count < 2u {
        return 1.0;
    }
    return f32(count) / f32(count - 1u);
}

/// Whether the channel has elements enough to update running statistics.
fn has_enough(channel: u32) -> bool {
    let count = count_of(channel);
    return count > 1u || (count == 1u && has(UPDATES_FROM_ONE));
}
