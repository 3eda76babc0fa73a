// What a gradient is taken back through, besides the tensors.

struct Basis {
    normalizer: Normalizer,
    gamma: vec4<f32>,
    beta: vec4<f32>,
}

fn basis_at(channels: vec4<u32>) -> Basis {
    return Basis(normalizers_at(channels), gammas_at(channels), betas_at(channels));
}

/// The pre-activation, as forward computed it but for roundings and a residual. By way of x̂, which the gradient needs as well.
fn preactivation(basis: Basis, x: vec4<f32>) -> vec4<f32> {
    return fma(normalized(basis.normalizer, x), basis.gamma, basis.beta);
}
