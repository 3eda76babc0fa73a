// The gradient means that the input gradient needs; and the sums that dgamma comes of, where x̂·R + D took the place of x̂.

fn prepare(merged: Accumulator, place: Place) -> Accumulator {
    let channels = channels_of(place);
    let mean = mean_of(merged.sum, channels);
    let product_mean = mean_of(merged.product, channels);
    var product = merged.product;
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = channels[component];
            write_means(channel, mean[component], product_mean[component]);
            let correction = renormalization_at(channel);
            if has(RENORMALIZES) {
                product[component] = correction.x * merged.product[component] + correction.y * merged.sum[component];
            }
        }
    }
    return Accumulator(merged.sum, product);
}
