// Maps what a place walks over, trip by trip.

/// Must be called in uniform control flow.
fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    let whole = whole_trips(extent);
    var walker = walk(place, extent);
    // As in the reduction, what needs no mask has a loop of its own.
    for (var trip = 0u; trip < whole; trip++) {
        let units = take_units(&walker);
        let block = load_block(units);
        let a = mapped(coefficients, block.a);
        let b = mapped(coefficients, block.b);
        let c = mapped(coefficients, block.c);
        let d = mapped(coefficients, block.d);
        if place.participates {
            store_mapped(units.x, a);
            store_mapped(units.y, b);
            store_mapped(units.z, c);
            store_mapped(units.w, d);
        }
        keep_in_step(trip);
    }
    for (var trip = whole; trip < params.blocks; trip++) {
        let taken = take_trip(&walker, place, extent);
        apply_to_trip(taken, coefficients, load_block(taken.units));
        keep_in_step(trip);
    }
}
