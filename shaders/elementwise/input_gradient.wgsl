// Through training statistics: dx = gamma · r · (h − mean(h) − x̂ · mean(h·x̂)), with h the gradient before the activation.

struct Coefficients {
    basis: Basis,
    mean: vec4<f32>,
    product_mean: vec4<f32>,
}

fn mapped(coefficients: Coefficients, values: Unit) -> Mapped {
    let basis = coefficients.basis;
    let h = gradient_of(basis, values);
    let centred = fma(-normalized_input(basis, values), coefficients.product_mean, h - coefficients.mean);
    // Inverse deviation before gamma: their product may leave the range of f32 where the gradient does not.
    return result_of((centred * basis.normalizer.inverse) * basis.gamma, h);
}
