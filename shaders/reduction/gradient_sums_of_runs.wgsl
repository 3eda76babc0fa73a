// Gradient sums: units of runs.

/// One unit, of one or two channels.
fn reduced_unit(basis: Basis, values: Unit, owners: Owners) -> Accumulator {
    let term = term_of(picked_basis(basis, owners), values);
    return Accumulator(summed(term.h, owners), summed(term.product, owners));
}

/// One unit of a run. The components are of one channel, with accumulators of their own.
fn accumulate_unit(basis: Basis, state: Accumulator, values: Unit, before: f32) -> Accumulator {
    let term = term_of(basis, values);
    return Accumulator(state.sum + term.h, state.product + term.product);
}
