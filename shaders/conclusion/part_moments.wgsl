// The moments of a part of a batch, or of several as those of one, to be merged with those of other parts.

/// Count as u32, pivot, offset, M2; the mean is pivot + offset. All 0 where there is no element.
@group(0) @binding(29)
var<storage, read_write> part_moments: array<vec4<u32>>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = channels[component];
            let values = vec3<f32>(merged.pivot[component], offset[component], merged.m2[component]);
            let count = count_of(channel);
            part_moments[channel] = select(vec4<u32>(), vec4<u32>(count, bitcast<vec3<u32>>(values)), count != 0u);
        }
    }
}
