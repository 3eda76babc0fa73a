// Batch statistics: units of runs.

/// One unit, of one or two channels.
fn reduced_unit(basis: Basis, values: Unit, owners: Owners) -> Accumulator {
    let unit = relative(basis, values, vec4<bool>(true), owners);
    let count = counted(unit);
    let sum = summed(unit.values, owners);
    return Accumulator(basis.pivot, count, sum, squares(unit, sum / max(count, vec4<f32>(1.0))));
}

/// One unit of a run, `before` of which came before it. The components are of one channel, with accumulators of their own.
fn accumulate_unit(basis: Basis, state: Accumulator, values: Unit, before: f32) -> Accumulator {
    let shifted = values.x - basis.pivot;
    let delta = shifted - state.sum * (1.0 / max(before, 1.0));
    let weight = before / (before + 1.0);
    return Accumulator(basis.pivot, vec4<f32>(before + 1.0), state.sum + shifted, state.m2 + delta * delta * weight);
}

fn picked_basis(basis: Basis, owners: Owners) -> Basis {
    return Basis(picked(basis.pivot, owners));
}
