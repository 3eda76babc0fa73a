// Through frozen statistics: dx = gamma · r · g.

struct Coefficients {
    gamma: vec4<f32>,
    inverse: vec4<f32>,
}

fn coefficients_at(channels: vec4<u32>) -> Coefficients {
    let gamma = vec4<f32>(gamma_at(channels.x), gamma_at(channels.y), gamma_at(channels.z), gamma_at(channels.w));
    return Coefficients(gamma, normalizers_at(channels).inverse);
}

// Inverse deviation before gamma: their product may leave the range of f32 where the gradient does not.
fn differentiate(coefficients: Coefficients, gradient: vec4<f32>) -> vec4<f32> {
    return (gradient * coefficients.inverse) * coefficients.gamma;
}

fn apply_unit(coefficients: Coefficients, unit: u32) {
    store_input_gradient(unit, differentiate(coefficients, load_output_gradient(unit)));
}

fn apply_unit_masked(coefficients: Coefficients, unit: u32, mask: vec4<bool>) {
    store_input_gradient_masked(unit, differentiate(coefficients, load_output_gradient(unit)), mask);
}

/// Four loads in flight before the first store.
fn apply_units(coefficients: Coefficients, units: vec4<u32>) {
    let a = load_output_gradient(units.x);
    let b = load_output_gradient(units.y);
    let c = load_output_gradient(units.z);
    let d = load_output_gradient(units.w);
    store_input_gradient(units.x, differentiate(coefficients, a));
    store_input_gradient(units.y, differentiate(coefficients, b));
    store_input_gradient(units.z, differentiate(coefficients, c));
    store_input_gradient(units.w, differentiate(coefficients, d));
}
