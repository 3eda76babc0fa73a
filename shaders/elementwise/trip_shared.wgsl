// Maps one trip of units that may be shared with neighbours and stores the elements that are the walk's.

fn apply_to_trip(trip: Trip, coefficients: Coefficients, block: Block) {
    store_mapped_masked(trip.units.x, mapped(coefficients, block.a), unit_mask(trip, 0u));
    store_mapped_masked(trip.units.y, mapped(coefficients, block.b), unit_mask(trip, 1u));
    store_mapped_masked(trip.units.z, mapped(coefficients, block.c), unit_mask(trip, 2u));
    store_mapped_masked(trip.units.w, mapped(coefficients, block.d), unit_mask(trip, 3u));
}
