// The coefficients of normalise, from the statistics of a place's channels.

fn prepare(merged: Accumulator, place: Place) -> Accumulator {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    let variance = mean_of(merged.m2, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = channels[component];
            let parameters = recorded_parameters(channel);
            let gamma = parameters.x;
            let beta = parameters.y;
            let correction = correct(channel, merged.pivot[component], offset[component], variance[component]);
            write_normalizer(
                channel,
                vec3<f32>(
                    merged.pivot[component],
                    offset[component],
                    inverse_deviation(variance[component], params.epsilon),
                ),
                gamma * correction.x,
                // Not by a shift of 0, which an infinite gamma would make a NaN.
                select(beta, gamma * correction.y + beta, has(RENORMALIZES)),
            );
        }
    }
    return merged;
}
