// Maps one unit of a trip of quads.

fn mapped_unit(coefficients: Coefficients, values: Unit, trip: Trip, which: u32) -> Mapped {
    return mapped(picked_coefficients(coefficients, owners_of(trip, which)), values);
}
