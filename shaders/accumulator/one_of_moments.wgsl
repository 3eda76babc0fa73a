// One component of an accumulator, alone.

/// In all components.
fn picked_accumulator(value: Accumulator, owners: Owners) -> Accumulator {
    return Accumulator(
        picked(value.pivot, owners),
        picked(value.count, owners),
        picked(value.sum, owners),
        picked(value.m2, owners),
    );
}

fn select_accumulator(otherwise: Accumulator, chosen: Accumulator, mask: vec4<bool>) -> Accumulator {
    return Accumulator(
        otherwise.pivot,
        select(otherwise.count, chosen.count, mask),
        select(otherwise.sum, chosen.sum, mask),
        select(otherwise.m2, chosen.m2, mask),
    );
}
