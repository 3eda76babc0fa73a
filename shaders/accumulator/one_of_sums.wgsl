// One component of an accumulator, alone.

/// In all components.
fn picked_accumulator(value: Accumulator, owners: Owners) -> Accumulator {
    return Accumulator(picked(value.sum, owners), picked(value.product, owners));
}

fn select_accumulator(otherwise: Accumulator, chosen: Accumulator, mask: vec4<bool>) -> Accumulator {
    return Accumulator(select(otherwise.sum, chosen.sum, mask), select(otherwise.product, chosen.product, mask));
}
