// The gradient before the activation, h: through the derivative at a pre-activation that is computed again.

fn gradient_of(basis: Basis, values: Unit) -> vec4<f32> {
    return through_activation(values.g, preactivation(basis, values.x));
}
