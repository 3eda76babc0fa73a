// y = f(t) with t = gamma · x̂ + beta, and a residual.

struct Coefficients {
    normalizer: Normalizer,
    gamma: vec4<f32>,
    beta: vec4<f32>,
}

fn coefficients_with(channels: vec4<u32>, normalizer: Normalizer) -> Coefficients {
    return Coefficients(normalizer, gammas_at(channels), betas_at(channels));
}

// Never x·scale + (beta − mean·scale): that subtracts two large numbers where the mean is large. And not with the product
// gamma · r formed first: it may leave the range of f32 where y does not.
fn mapped(coefficients: Coefficients, values: Unit) -> Mapped {
    let t = normalized(coefficients.normalizer, values.x) * coefficients.gamma + coefficients.beta;
    return result_of(with_residual(t, values));
}
