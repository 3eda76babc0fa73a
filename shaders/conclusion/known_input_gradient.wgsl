// What the input gradient through frozen statistics needs.

fn coefficients_of(place: Place) -> Coefficients {
    return coefficients_with(channels_of(place));
}
