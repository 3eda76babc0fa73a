// The gradient before the activation, h: through the derivative at a pre-activation that is computed again, with a residual
// if there was one, or by the sign of the output.

fn gradient_of(basis: Basis, values: Unit) -> vec4<f32> {
    if COMPANION == OUTPUT {
        return through_sign(values.g, values.companion <= vec4<f32>());
    }
    if COMPANION == RESIDUAL {
        return through_activation(values.g, preactivation(basis, values.x) + values.companion);
    }
    return through_activation(values.g, preactivation(basis, values.x));
}
