// Gradient sums: what a reduction does with the gradient before the activation and the input.

fn basis_of(place: Place, extent: Extent) -> Basis {
    return basis_at(channels_of(place));
}

fn empty(basis: Basis) -> Accumulator {
    return Accumulator(vec4<f32>(), vec4<f32>());
}

/// What one unit adds to the sums.
struct Term {
    h: vec4<f32>,
    product: vec4<f32>,
}

fn term_of(basis: Basis, values: Unit) -> Term {
    let h = gradient_of(basis, values);
    return Term(h, h * normalized_input(basis, values));
}
