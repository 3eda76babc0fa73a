// x̂, from the input.

fn normalized_input(basis: Basis, values: Unit) -> vec4<f32> {
    return normalized(basis.normalizer, values.x);
}
