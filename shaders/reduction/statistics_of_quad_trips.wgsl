// Batch statistics: trips of units of quads.

/// Four units of which only the elements with a true mask count.
fn accumulate_masked(basis: Basis, state: Accumulator, block: Block, trip: Trip) -> Accumulator {
    let a = relative(basis, block.a, unit_mask(trip, 0u), owners_of(trip, 0u));
    let b = relative(basis, block.b, unit_mask(trip, 1u), owners_of(trip, 1u));
    let c = relative(basis, block.c, unit_mask(trip, 2u), owners_of(trip, 2u));
    let d = relative(basis, block.d, unit_mask(trip, 3u), owners_of(trip, 3u));
    let count = (counted(a) + counted(b)) + (counted(c) + counted(d));
    let sum = (summed(a.values, a.owners) + summed(b.values, b.owners))
        + (summed(c.values, c.owners) + summed(d.values, d.owners));
    let mean = sum / max(count, vec4<f32>(1.0));
    let m2 = (squares(a, mean) + squares(b, mean)) + (squares(c, mean) + squares(d, mean));
    return merge_known_mean(state, Accumulator(basis.pivot, count, sum, m2), mean);
}
