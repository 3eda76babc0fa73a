// What batch renormalization makes of a place's channels, from the running statistics before the batch takes part in them.

fn prepare(merged: Accumulator, place: Place) -> Accumulator {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    let variance = mean_of(merged.m2, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            correct(channels[component], merged.pivot[component], offset[component], variance[component]);
        }
    }
    return merged;
}
