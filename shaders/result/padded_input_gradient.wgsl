// The input gradient, 0 where there is padding.

fn without_padding(values: Mapped, valid: vec4<bool>) -> Mapped {
    return Mapped(select(vec4<f32>(), values.dx, valid));
}
