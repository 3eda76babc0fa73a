// Batch statistics: units of one or two channels of a quad.

/// A unit's elements relative to the pivots of their channels, 0 where they do not count.
struct Relative {
    values: vec4<f32>,
    mask: vec4<bool>,
    owners: Owners,
}

fn relative(basis: Basis, values: Unit, mask: vec4<bool>, owners: Owners) -> Relative {
    return Relative(select(vec4<f32>(), values.x - picked(basis.pivot, owners), mask), mask, owners);
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
