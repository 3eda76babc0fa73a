// Through frozen statistics: dx = gamma · r · h, with h the gradient before the activation.

struct Coefficients {
    basis: Basis,
}

fn coefficients_with(channels: vec4<u32>) -> Coefficients {
    return Coefficients(basis_at(channels));
}

// Inverse deviation before gamma: their product may leave the range of f32 where the gradient does not.
fn mapped(coefficients: Coefficients, values: Unit) -> Mapped {
    let basis = coefficients.basis;
    let h = gradient_of(basis, values);
    return result_of((h * basis.normalizer.inverse) * basis.gamma, h);
}
