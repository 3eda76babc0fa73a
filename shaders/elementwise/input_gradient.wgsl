// Through training statistics: dx = gamma · r · (g − mean(g) − x̂ · mean(g·x̂)).

/// mean(g) of all channels at 0, mean(g·x̂) at `stride`.
@group(0) @binding(11)
var<storage, read> gradient_means: array<f32>;

struct Coefficients {
    normalizer: Normalizer,
    gamma: vec4<f32>,
    mean: vec4<f32>,
    product_mean: vec4<f32>,
}

fn coefficients_at(channels: vec4<u32>) -> Coefficients {
    let normalizer = normalizers_at(channels);
    let gamma = vec4<f32>(gamma_at(channels.x), gamma_at(channels.y), gamma_at(channels.z), gamma_at(channels.w));
    let products = channels + params.stride;
    return Coefficients(
        normalizer,
        gamma,
        vec4<f32>(
            gradient_means[channels.x],
            gradient_means[channels.y],
            gradient_means[channels.z],
            gradient_means[channels.w],
        ),
        vec4<f32>(
            gradient_means[products.x],
            gradient_means[products.y],
            gradient_means[products.z],
            gradient_means[products.w],
        ),
    );
}

fn differentiate(coefficients: Coefficients, gradient: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    let projection = normalized(coefficients.normalizer, x) * coefficients.product_mean;
    // Inverse deviation before gamma: their product may leave the range of f32 where the gradient does not.
    let centred = (gradient - coefficients.mean) - projection;
    return (centred * coefficients.normalizer.inverse) * coefficients.gamma;
}

fn apply_unit(coefficients: Coefficients, unit: u32) {
    store_input_gradient(unit, differentiate(coefficients, load_output_gradient(unit), load_input(unit)));
}

fn apply_unit_masked(coefficients: Coefficients, unit: u32, mask: vec4<bool>) {
    let gradient = differentiate(coefficients, load_output_gradient(unit), load_input(unit));
    store_input_gradient_masked(unit, gradient, mask);
}

/// Eight loads in flight before the first store.
fn apply_units(coefficients: Coefficients, units: vec4<u32>) {
    let gradient_a = load_output_gradient(units.x);
    let gradient_b = load_output_gradient(units.y);
    let gradient_c = load_output_gradient(units.z);
    let gradient_d = load_output_gradient(units.w);
    let a = load_input(units.x);
    let b = load_input(units.y);
    let c = load_input(units.z);
    let d = load_input(units.w);
    store_input_gradient(units.x, differentiate(coefficients, gradient_a, a));
    store_input_gradient(units.y, differentiate(coefficients, gradient_b, b));
    store_input_gradient(units.z, differentiate(coefficients, gradient_c, c));
    store_input_gradient(units.w, differentiate(coefficients, gradient_d, d));
}
