// 1 / sqrt(variance + epsilon).

/// The first half of the digits, so that products of such are exact.
fn upper_half(value: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) & 0xfffff000u);
}

/// a · b − product, what a product was rounded by: without `fma`, which need not be fused.
fn rounding_of_product(a: f32, b: f32, product: f32) -> f32 {
    let a_upper = upper_half(a);
    let b_upper = upper_half(b);
    let a_lower = a - a_upper;
    let b_lower = b - b_upper;
    return ((a_upper * b_upper - product) + (a_upper * b_lower + a_lower * b_upper)) + a_lower * b_lower;
}

/// One Newton step, whose residual 1 − sum · rough² is free of roundings, takes the 2 ULP of `inverseSqrt` to half a one. A sum of 0
/// gives 0, so that a constant channel comes out as beta even without epsilon; an infinite sum gives 0 and a negative one what
/// `inverseSqrt` gives, both unrefined.
fn inverse_deviation(variance: f32, epsilon: f32) -> f32 {
    let sum = variance + epsilon;
    if sum == 0.0 {
        return 0.0;
    }
    let rough = inverseSqrt(sum);
    let root = sum * rough;
    let square = root * rough;
    // What the sum, the root and the square were rounded by.
    let lost = min(variance, epsilon) - (sum - max(variance, epsilon));
    let lost_of_root = rounding_of_product(sum, rough, root);
    let lost_of_square = rounding_of_product(root, rough, square);
    let residual = ((1.0 - square) - lost_of_square) - (lost_of_root + lost * rough) * rough;
    let refined = fma(0.5 * rough, residual, rough);
    return select(rough, refined, sum > 1e-37 && sum < 1e37);
}
