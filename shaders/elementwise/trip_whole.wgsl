// Maps one trip of whole units and stores the results.

fn apply_to_trip(trip: Trip, coefficients: Coefficients, block: Block) {
    let a = mapped(coefficients, block.a);
    let b = mapped(coefficients, block.b);
    let c = mapped(coefficients, block.c);
    let d = mapped(coefficients, block.d);
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
