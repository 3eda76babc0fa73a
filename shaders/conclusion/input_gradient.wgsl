// From the gradient sums of a place's channels to what the input gradient needs.

fn conclude(merged: Accumulator, place: Place) -> Coefficients {
    let channels = channels_of(place);
    return Coefficients(basis_at(channels), mean_of(merged.sum, channels), mean_of(merged.product, channels));
}
