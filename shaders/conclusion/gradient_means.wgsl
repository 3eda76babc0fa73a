// The gradient means that the input gradient needs, from the sums of all parts.

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let mean = mean_of(merged.sum, channels);
    let product_mean = mean_of(merged.product, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            write_means(channels[component], mean[component], product_mean[component]);
        }
    }
}
