// y = f(t) with t = gamma · x̂ + beta, and a residual.

struct Coefficients {
    normalizer: Normalizer,
    affine: Affine,
}

fn coefficients_with(channels: vec4<u32>, normalizer: Normalizer) -> Coefficients {
    return Coefficients(normalizer, affine_of(normalizer, gammas_at(channels), betas_at(channels)));
}

// Never x·scale + (beta − mean·scale): that subtracts two large numbers where the mean is large.
fn mapped(coefficients: Coefficients, values: Unit) -> Mapped {
    let t = scaled_and_shifted(coefficients.normalizer, coefficients.affine, values.x);
    return result_of(with_residual(t, values));
}
