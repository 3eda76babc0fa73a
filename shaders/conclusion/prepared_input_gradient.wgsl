// What the input gradient through training statistics needs, of sums that are known.

fn coefficients_of(place: Place) -> Coefficients {
    let channels = channels_of(place);
    return Coefficients(basis_at(channels), means_at(channels), product_means_at(channels));
}
