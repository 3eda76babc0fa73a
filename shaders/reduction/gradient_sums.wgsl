// Gradient sums: what a reduction does with the output gradient and the input.

/// What the input is normalised with.
struct Basis {
    normalizer: Normalizer,
}

fn basis_of(place: Place, extent: Extent) -> Basis {
    return Basis(normalizers_at(channels_of(place)));
}

fn empty(basis: Basis) -> Accumulator {
    return Accumulator(vec4<f32>(), vec4<f32>());
}

/// Four whole units; sums do not depend on how many came `before`.
fn accumulate(basis: Basis, state: Accumulator, block: Block, before: f32) -> Accumulator {
    let a = block.a.g * normalized(basis.normalizer, block.a.x);
    let b = block.b.g * normalized(basis.normalizer, block.b.x);
    let c = block.c.g * normalized(basis.normalizer, block.c.x);
    let d = block.d.g * normalized(basis.normalizer, block.d.x);
    return Accumulator(
        state.sum + ((block.a.g + block.b.g) + (block.c.g + block.d.g)),
        state.product + ((a + b) + (c + d)),
    );
}

/// Four units of which only the components with a true mask belong to the channel.
fn accumulate_masked(basis: Basis, state: Accumulator, block: Block, trip: Trip) -> Accumulator {
    // Selection, not multiplication: a masked component may hold another channel's NaN.
    let masked = Block(
        select_unit(block.a, unit_mask(trip, 0u), basis),
        select_unit(block.b, unit_mask(trip, 1u), basis),
        select_unit(block.c, unit_mask(trip, 2u), basis),
        select_unit(block.d, unit_mask(trip, 3u), basis),
    );
    return accumulate(basis, state, masked, 0.0);
}

/// A gradient of 0 and a finite normalised input where the mask is false.
fn select_unit(values: Unit, mask: vec4<bool>, basis: Basis) -> Unit {
    return Unit(select(vec4<f32>(), values.g, mask), select(basis.normalizer.pivot, values.x, mask));
}
