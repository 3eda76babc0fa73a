// Batch statistics: units of one channel a component.

/// One unit, before which came `before`. The components have accumulators of their own.
fn accumulate_unit(basis: Basis, state: Accumulator, values: Unit, before: f32) -> Accumulator {
    let shifted = values.x - basis.pivot;
    let delta = shifted - state.sum * (1.0 / max(before, 1.0));
    let weight = before / (before + 1.0);
    return Accumulator(basis.pivot, vec4<f32>(before + 1.0), state.sum + shifted, state.m2 + delta * delta * weight);
}
