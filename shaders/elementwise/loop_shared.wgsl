// Maps what a place walks over, trip by trip.

/// Must be called in uniform control flow.
fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    var walker = walk(place, extent);
    for (var trip = 0u; trip < params.blocks; trip++) {
        let taken = take_trip(&walker, place, extent);
        apply_to_trip(taken, coefficients, load_block(taken.units));
        keep_in_step(trip);
    }
}
