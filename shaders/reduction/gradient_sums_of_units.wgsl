// Gradient sums: units of one channel a component.

/// One unit. The components have accumulators of their own.
fn accumulate_unit(basis: Basis, state: Accumulator, values: Unit, before: f32) -> Accumulator {
    let term = term_of(basis, values);
    return Accumulator(state.sum + term.h, state.product + term.product);
}
