// Through frozen statistics: dx = gamma · r · g.

struct Coefficients {
    gamma: vec4<f32>,
    inverse: vec4<f32>,
}

fn coefficients_with(channels: vec4<u32>, normalizer: Normalizer) -> Coefficients {
    return Coefficients(gammas_at(channels), normalizer.inverse);
}

// Inverse deviation before gamma: their product may leave the range of f32 where the gradient does not.
fn mapped(coefficients: Coefficients, values: Unit) -> vec4<f32> {
    return (values.g * coefficients.inverse) * coefficients.gamma;
}
