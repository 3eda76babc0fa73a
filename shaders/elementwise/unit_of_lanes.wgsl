// Maps one unit of a trip whose components are of one channel each.

fn mapped_unit(coefficients: Coefficients, values: Unit, trip: Trip, which: u32) -> Mapped {
    return mapped(coefficients, values);
}
