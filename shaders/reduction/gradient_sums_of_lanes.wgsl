// Gradient sums: blocks whose components are of one channel each.

/// Four whole units; sums do not depend on how many came `before`.
fn accumulate(basis: Basis, state: Accumulator, block: Block, before: f32) -> Accumulator {
    return accumulate_terms(
        state,
        term_of(basis, block.a),
        term_of(basis, block.b),
        term_of(basis, block.c),
        term_of(basis, block.d),
    );
}

/// Four units of which only the components with a true mask belong to the channel.
fn accumulate_masked(basis: Basis, state: Accumulator, block: Block, trip: Trip) -> Accumulator {
    return accumulate_terms(
        state,
        select_term(term_of(basis, block.a), unit_mask(trip, 0u)),
        select_term(term_of(basis, block.b), unit_mask(trip, 1u)),
        select_term(term_of(basis, block.c), unit_mask(trip, 2u)),
        select_term(term_of(basis, block.d), unit_mask(trip, 3u)),
    );
}

/// Selection, not multiplication: a masked component may hold another channel's NaN.
fn select_term(term: Term, mask: vec4<bool>) -> Term {
    return Term(select(vec4<f32>(), term.h, mask), select(vec4<f32>(), term.product, mask));
}

fn accumulate_terms(state: Accumulator, a: Term, b: Term, c: Term, d: Term) -> Accumulator {
    return Accumulator(
        state.sum + ((a.h + b.h) + (c.h + d.h)),
        state.product + ((a.product + b.product) + (c.product + d.product)),
    );
}
