// Maps one trip of whole units and stores the results.

fn apply_to_trip(trip: Trip, coefficients: Coefficients, block: Block) {
    let a = mapped_unit(coefficients, block.a, trip, 0u);
    let b = mapped_unit(coefficients, block.b, trip, 1u);
    let c = mapped_unit(coefficients, block.c, trip, 2u);
    let d = mapped_unit(coefficients, block.d, trip, 3u);
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
