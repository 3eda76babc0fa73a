// Through frozen statistics: dx = gamma · r · g.

struct Coefficients {
    scale: vec4<f32>,
}

fn coefficients_at(channels: vec4<u32>) -> Coefficients {
    let gamma = vec4<f32>(gamma_at(channels.x), gamma_at(channels.y), gamma_at(channels.z), gamma_at(channels.w));
    return Coefficients(gamma * normalizers_at(channels).inverse);
}

fn apply_unit(coefficients: Coefficients, unit: u32) {
    store_input_gradient(unit, coefficients.scale * load_output_gradient(unit));
}

/// Four loads in flight before the first store.
fn apply_units(coefficients: Coefficients, units: vec4<u32>) {
    let a = load_output_gradient(units.x);
    let b = load_output_gradient(units.y);
    let c = load_output_gradient(units.z);
    let d = load_output_gradient(units.w);
    store_input_gradient(units.x, coefficients.scale * a);
    store_input_gradient(units.y, coefficients.scale * b);
    store_input_gradient(units.z, coefficients.scale * c);
    store_input_gradient(units.w, coefficients.scale * d);
}
