// The gradient before the activation, h: by the mask that forward wrote.

fn gradient_of(basis: Basis, values: Unit) -> vec4<f32> {
    return through_sign(values.g, !values.positive);
}
