// From the statistics of a place's channels to what normalise needs.

fn conclude(merged: Accumulator, place: Place) -> Coefficients {
    let channels = channels_of(place);
    let variance = mean_of(merged.m2, channels);
    let inverse = vec4<f32>(
        inverse_deviation(variance.x, params.epsilon),
        inverse_deviation(variance.y, params.epsilon),
        inverse_deviation(variance.z, params.epsilon),
        inverse_deviation(variance.w, params.epsilon),
    );
    return coefficients_with(channels, normalizer_of(merged.pivot, mean_of(merged.sum, channels), inverse));
}
