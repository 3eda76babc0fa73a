// What normalise needs, of statistics that are known.

fn coefficients_of(place: Place) -> Coefficients {
    let channels = channels_of(place);
    return coefficients_with(channels, normalizers_at(channels));
}
