// The output, 0 where there is padding, and the mask with it.

fn without_padding(values: Mapped, valid: vec4<bool>) -> Mapped {
    return Mapped(select(vec4<f32>(), values.y, valid), values.positive & valid);
}
