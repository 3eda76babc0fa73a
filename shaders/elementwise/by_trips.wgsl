// Maps what a place walks over.

/// Must be called in uniform control flow.
fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    apply_to_trips(place, extent, coefficients);
}
