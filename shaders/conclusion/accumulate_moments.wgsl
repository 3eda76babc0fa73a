// Merges the statistics of a batch into those of the batches before it: Chan, Golub and LeVeque's formula.

/// Count as u32 bits, pivot, offset, M2; the mean is pivot + offset.
@group(0) @binding(20)
var<storage, read_write> moments: array<vec4<u32>>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            accumulate_moments(channels[component], merged.pivot[component], offset[component], merged.m2[component]);
        }
    }
}

fn accumulate_moments(channel: u32, pivot: f32, offset: f32, m2: f32) {
    let old = moments[channel];
    let count = count_of(channel);
    if count == 0u {
        return;
    }
    if old.x == 0u {
        moments[channel] = vec4<u32>(count, bitcast<u32>(pivot), bitcast<u32>(offset), bitcast<u32>(m2));
        return;
    }
    let before = bitcast<vec4<f32>>(old);
    let delta = (pivot - before.y) + (offset - before.z);
    // Saturating: weights are then of what was counted.
    let total = select(old.x + count, 0xffffffffu, old.x > 0xffffffffu - count);
    let share = f32(count) / f32(total);
    let merged_m2 = before.w + (m2 + delta * (delta * (f32(old.x) * share)));
    moments[channel] = vec4<u32>(total, old.y, bitcast<u32>(before.z + delta * share), bitcast<u32>(merged_m2));
}
