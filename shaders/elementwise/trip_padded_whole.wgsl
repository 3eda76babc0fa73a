// Maps one trip of whole units and stores the results, zeros where there is padding.

fn apply_to_trip(trip: Trip, coefficients: Coefficients, block: Block) {
    let a = without_padding(mapped_unit(coefficients, block.a, trip, 0u), load_valid(trip.units.x));
    let b = without_padding(mapped_unit(coefficients, block.b, trip, 1u), load_valid(trip.units.y));
    let c = without_padding(mapped_unit(coefficients, block.c, trip, 2u), load_valid(trip.units.z));
    let d = without_padding(mapped_unit(coefficients, block.d, trip, 3u), load_valid(trip.units.w));
    if trip.valid.x {
        store_mapped(trip.units.x, a);
    }
    if trip.valid.y {
        store_mapped(trip.units.y, b);
    }
    if trip.valid.z {
        store_mapped(trip.units.z, c);
    }
    if trip.valid.w {
        store_mapped(trip.units.w, d);
    }
}
