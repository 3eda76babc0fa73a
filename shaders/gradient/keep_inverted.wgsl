// What is kept where the output stands in the place of the input.

fn kept_unit(basis: Basis, values: Unit) -> Unit {
    return Unit(through_sign(values.g, values.x <= vec4<f32>()), normalized_output(basis, values.x));
}
