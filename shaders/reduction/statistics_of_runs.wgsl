// Batch statistics: units of runs.

/// One unit, of one or two channels.
fn reduced_unit(basis: Basis, values: Unit, owners: Owners) -> Accumulator {
    let unit = relative(basis, values, vec4<bool>(true), owners);
    let count = counted(unit);
    let sum = summed(unit.values, owners);
    return Accumulator(basis.pivot, count, sum, squares(unit, sum / max(count, vec4<f32>(1.0))));
}

fn picked_basis(basis: Basis, owners: Owners) -> Basis {
    return Basis(picked(basis.pivot, owners));
}
