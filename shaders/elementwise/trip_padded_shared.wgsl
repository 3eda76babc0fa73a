// Maps one trip of units that may be shared with neighbours and stores the elements that are the walk's, zeros where there is
// padding.

fn apply_to_trip(trip: Trip, coefficients: Coefficients, block: Block) {
    apply_to_unit(trip, 0u, mapped(coefficients, block.a));
    apply_to_unit(trip, 1u, mapped(coefficients, block.b));
    apply_to_unit(trip, 2u, mapped(coefficients, block.c));
    apply_to_unit(trip, 3u, mapped(coefficients, block.d));
}

fn apply_to_unit(trip: Trip, which: u32, values: Mapped) {
    let unit = trip.units[which];
    store_mapped_masked(unit, without_padding(values, load_valid(unit)), walk_mask(trip, which));
}
