// Batch statistics: blocks whose components are of one channel each.

/// Four whole units after `before` trips of four whole units. As `merge_known_mean`, with counts that all components share.
fn accumulate(basis: Basis, state: Accumulator, block: Block, before: f32) -> Accumulator {
    let a = block.a.x - basis.pivot;
    let b = block.b.x - basis.pivot;
    let c = block.c.x - basis.pivot;
    let d = block.d.x - basis.pivot;
    let sum = (a + b) + (c + d);
    let mean = sum * 0.25;
    let da = a - mean;
    let db = b - mean;
    let dc = c - mean;
    let dd = d - mean;
    let m2 = (da * da + db * db) + (dc * dc + dd * dd);
    let delta = mean - state.sum * (0.25 / max(before, 1.0));
    let weight = 4.0 * before / (before + 1.0);
    return Accumulator(
        basis.pivot,
        vec4<f32>(4.0 * (before + 1.0)),
        state.sum + sum,
        state.m2 + (m2 + delta * delta * weight),
    );
}

/// Four units of which only the components with a true mask belong to the channel.
fn accumulate_masked(basis: Basis, state: Accumulator, block: Block, trip: Trip) -> Accumulator {
    let mask_a = unit_mask(trip, 0u);
    let mask_b = unit_mask(trip, 1u);
    let mask_c = unit_mask(trip, 2u);
    let mask_d = unit_mask(trip, 3u);
    // Selection, not multiplication: a masked component may hold another channel's NaN.
    let zero = vec4<f32>();
    let one = vec4<f32>(1.0);
    let a = select(zero, block.a.x - basis.pivot, mask_a);
    let b = select(zero, block.b.x - basis.pivot, mask_b);
    let c = select(zero, block.c.x - basis.pivot, mask_c);
    let d = select(zero, block.d.x - basis.pivot, mask_d);
    let count = (select(zero, one, mask_a) + select(zero, one, mask_b))
        + (select(zero, one, mask_c) + select(zero, one, mask_d));
    let sum = (a + b) + (c + d);
    let mean = sum / max(count, one);
    let da = select(zero, a - mean, mask_a);
    let db = select(zero, b - mean, mask_b);
    let dc = select(zero, c - mean, mask_c);
    let dd = select(zero, d - mean, mask_d);
    let m2 = (da * da + db * db) + (dc * dc + dd * dd);
    return merge_known_mean(state, Accumulator(basis.pivot, count, sum, m2), mean);
}
