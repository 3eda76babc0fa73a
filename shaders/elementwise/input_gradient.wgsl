// Through training statistics: dx = gamma · r · (g − mean(g) − x̂ · mean(g·x̂)).

struct Coefficients {
    normalizer: Normalizer,
    gamma: vec4<f32>,
    mean: vec4<f32>,
    product_mean: vec4<f32>,
}

fn coefficients_with(channels: vec4<u32>, sums: Accumulator) -> Coefficients {
    return Coefficients(normalizers_at(channels), gammas_at(channels), mean_of(sums.sum), mean_of(sums.product));
}

fn mapped(coefficients: Coefficients, values: Unit) -> vec4<f32> {
    let projection = normalized(coefficients.normalizer, values.x) * coefficients.product_mean;
    // Inverse deviation before gamma: their product may leave the range of f32 where the gradient does not.
    let centred = (values.g - coefficients.mean) - projection;
    return (centred * coefficients.normalizer.inverse) * coefficients.gamma;
}
