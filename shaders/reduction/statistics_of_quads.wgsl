// Batch statistics: blocks whose units are of one or two channels of a quad.

/// Four units of which only the elements with a true mask count.
fn accumulate_masked(basis: Basis, state: Accumulator, block: Block, trip: Trip) -> Accumulator {
    let a = relative(basis, block.a, trip, 0u);
    let b = relative(basis, block.b, trip, 1u);
    let c = relative(basis, block.c, trip, 2u);
    let d = relative(basis, block.d, trip, 3u);
    let count = (counted(a) + counted(b)) + (counted(c) + counted(d));
    let sum = (summed(a.values, a.owners) + summed(b.values, b.owners))
        + (summed(c.values, c.owners) + summed(d.values, d.owners));
    let mean = sum / max(count, vec4<f32>(1.0));
    let m2 = (squares(a, mean) + squares(b, mean)) + (squares(c, mean) + squares(d, mean));
    return merge_known_mean(state, Accumulator(basis.pivot, count, sum, m2), mean);
}

/// A unit's elements relative to the pivots of their channels, 0 where they do not count.
struct Relative {
    values: vec4<f32>,
    mask: vec4<bool>,
    owners: Owners,
}

fn relative(basis: Basis, values: Unit, trip: Trip, which: u32) -> Relative {
    let owners = owners_of(trip, which);
    let mask = unit_mask(trip, which);
    return Relative(select(vec4<f32>(), values.x - picked(basis.pivot, owners), mask), mask, owners);
}

/// One unit.
fn reduced_unit(basis: Basis, values: Unit, mask: vec4<bool>, owners: Owners) -> Accumulator {
    let unit = Relative(select(vec4<f32>(), values.x - picked(basis.pivot, owners), mask), mask, owners);
    let count = counted(unit);
    let sum = summed(unit.values, owners);
    return Accumulator(basis.pivot, count, sum, squares(unit, sum / max(count, vec4<f32>(1.0))));
}

/// One unit of a run, `before` of which came before it. The components are of one channel, with accumulators of their own.
fn accumulate_unit(basis: Basis, state: Accumulator, values: Unit, before: f32) -> Accumulator {
    let relative = values.x - basis.pivot;
    let delta = relative - state.sum * (1.0 / max(before, 1.0));
    let weight = before / (before + 1.0);
    return Accumulator(basis.pivot, vec4<f32>(before + 1.0), state.sum + relative, state.m2 + delta * delta * weight);
}

fn picked_basis(basis: Basis, owners: Owners) -> Basis {
    return Basis(picked(basis.pivot, owners));
}

/// The elements that count, by channel.
fn counted(unit: Relative) -> vec4<f32> {
    return summed(select(vec4<f32>(), vec4<f32>(1.0), unit.mask), unit.owners);
}

/// The sums of their squared deviations from the means of their channels.
fn squares(unit: Relative, mean: vec4<f32>) -> vec4<f32> {
    let deviations = select(vec4<f32>(), unit.values - picked(mean, unit.owners), unit.mask);
    return summed(deviations * deviations, unit.owners);
}
