// From the gradient sums of a place's channels to what the input gradient needs.

fn conclude(merged: Accumulator, place: Place) -> Coefficients {
    return coefficients_with(channels_of(place), merged);
}
