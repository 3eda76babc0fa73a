// The coefficients of normalise, from the statistics of a place's channels.

fn prepare(merged: Accumulator, place: Place) -> Accumulator {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    let variance = mean_of(merged.m2, channels);
    let gamma = gammas_at(channels);
    let beta = betas_at(channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = channels[component];
            let correction = correct(channel, merged.pivot[component], offset[component], variance[component]);
            write_normalizer(
                channel,
                vec3<f32>(
                    merged.pivot[component],
                    offset[component],
                    inverse_deviation(variance[component], params.epsilon),
                ),
                gamma[component] * correction.x,
                // Not by a shift of 0, which an infinite gamma would make a NaN.
                select(beta[component], gamma[component] * correction.y + beta[component], has(RENORMALIZES)),
            );
        }
    }
    return merged;
}
