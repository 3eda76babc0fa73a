// The moments of several parts as those of one.

@group(0) @binding(29)
var<storage, read_write> merged_moments: array<vec4<u32>>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = channels[component];
            let values = vec3<f32>(merged.pivot[component], offset[component], merged.m2[component]);
            let count = count_of(channel);
            merged_moments[channel] = select(vec4<u32>(), vec4<u32>(count, bitcast<vec3<u32>>(values)), count != 0u);
        }
    }
}
