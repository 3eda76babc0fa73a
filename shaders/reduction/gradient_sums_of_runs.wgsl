// Gradient sums: units of runs.

/// One unit, of one or two channels.
fn reduced_unit(basis: Basis, values: Unit, owners: Owners) -> Accumulator {
    let term = term_of(picked_basis(basis, owners), values);
    return Accumulator(summed(term.h, owners), summed(term.product, owners));
}
