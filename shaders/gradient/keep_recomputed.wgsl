// What is kept where the derivative is taken at a pre-activation that is computed again.

fn kept_unit(basis: Basis, values: Unit) -> Unit {
    let h = through_activation(values.g, preactivation(basis, values.x));
    return Unit(h, normalized(basis.normalizer, values.x));
}
