// No residual.

fn with_residual(t: vec4<f32>, values: Unit) -> vec4<f32> {
    return t;
}
