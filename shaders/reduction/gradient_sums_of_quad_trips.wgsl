// Gradient sums: trips of units of quads.

/// Four units of which only the elements with a true mask count.
fn accumulate_masked(basis: Basis, state: Accumulator, block: Block, trip: Trip) -> Accumulator {
    let a = reduced_unit(basis, block.a, unit_mask(trip, 0u), owners_of(trip, 0u));
    let b = reduced_unit(basis, block.b, unit_mask(trip, 1u), owners_of(trip, 1u));
    let c = reduced_unit(basis, block.c, unit_mask(trip, 2u), owners_of(trip, 2u));
    let d = reduced_unit(basis, block.d, unit_mask(trip, 3u), owners_of(trip, 3u));
    return merge(state, merge(merge(a, b), merge(c, d)));
}

/// One unit, of one or two channels.
fn reduced_unit(basis: Basis, values: Unit, mask: vec4<bool>, owners: Owners) -> Accumulator {
    let term = masked(term_of(picked_basis(basis, owners), values), mask);
    return Accumulator(summed(term.h, owners), summed(term.product, owners));
}

/// Selection, not multiplication: a masked element may be a NaN.
fn masked(term: Term, mask: vec4<bool>) -> Term {
    return Term(select(vec4<f32>(), term.h, mask), select(vec4<f32>(), term.product, mask));
}
