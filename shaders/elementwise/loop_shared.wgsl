// Maps what a place walks over, trip by trip.

/// Must be called in uniform control flow.
fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    // Conditions stand behind the bodies, as in the reduction.
    var walker = walk(place, extent);
    if params.blocks > 0u {
        var trip = 0u;
        loop {
            let taken = take_trip(&walker, place, extent);
            apply_to_trip(taken, coefficients, load_block(taken.units));
            keep_in_step(trip);
            trip++;
            continuing {
                break if trip >= params.blocks;
            }
        }
    }
}
