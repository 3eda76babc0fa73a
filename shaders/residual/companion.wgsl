// A residual, added before the activation.

fn with_residual(t: vec4<f32>, values: Unit) -> vec4<f32> {
    if COMPANION == NO_COMPANION {
        return t;
    }
    return t + values.companion;
}
