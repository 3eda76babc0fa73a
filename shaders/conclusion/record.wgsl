// What a backward without saved statistics needs of a channel: its record.

@group(0) @binding(5)
var<storage, read_write> statistics: array<vec4<f32>>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    let variance = mean_of(merged.m2, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let inverse = inverse_deviation(variance[component], params.epsilon);
            statistics[channels[component]] =
                vec4<f32>(merged.pivot[component], offset[component], inverse, variance[component]);
        }
    }
}
