// Maps one trip of whole units and stores the results, zeros where there is padding.

fn apply_to_trip(trip: Trip, coefficients: Coefficients, block: Block) {
    let a = without_padding(mapped(coefficients, block.a), load_valid(trip.units.x));
    let b = without_padding(mapped(coefficients, block.b), load_valid(trip.units.y));
    let c = without_padding(mapped(coefficients, block.c), load_valid(trip.units.z));
    let d = without_padding(mapped(coefficients, block.d), load_valid(trip.units.w));
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
