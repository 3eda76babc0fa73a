// y = gamma · x̂ + beta.

struct Coefficients {
    normalizer: Normalizer,
    gamma: vec4<f32>,
    beta: vec4<f32>,
}

fn coefficients_at(channels: vec4<u32>) -> Coefficients {
    let normalizer = normalizers_at(channels);
    let gamma = vec4<f32>(gamma_at(channels.x), gamma_at(channels.y), gamma_at(channels.z), gamma_at(channels.w));
    let beta = vec4<f32>(beta_at(channels.x), beta_at(channels.y), beta_at(channels.z), beta_at(channels.w));
    return Coefficients(normalizer, gamma, beta);
}

// Never x·scale + (beta − mean·scale): that subtracts two large numbers where the mean is large. And not with the product
// gamma · r formed first: it may leave the range of f32 where y does not.
fn normalize(coefficients: Coefficients, x: vec4<f32>) -> vec4<f32> {
    return normalized(coefficients.normalizer, x) * coefficients.gamma + coefficients.beta;
}

fn apply_unit(coefficients: Coefficients, unit: u32) {
    store_output(unit, normalize(coefficients, load_input(unit)));
}

fn apply_unit_masked(coefficients: Coefficients, unit: u32, mask: vec4<bool>) {
    store_output_masked(unit, normalize(coefficients, load_input(unit)), mask);
}

/// Four loads in flight before the first store.
fn apply_units(coefficients: Coefficients, units: vec4<u32>) {
    let a = load_input(units.x);
    let b = load_input(units.y);
    let c = load_input(units.z);
    let d = load_input(units.w);
    store_output(units.x, normalize(coefficients, a));
    store_output(units.y, normalize(coefficients, b));
    store_output(units.z, normalize(coefficients, c));
    store_output(units.w, normalize(coefficients, d));
}
