// 1 / sqrt(variance + epsilon).

/// One Newton step takes the 2 ULP of `inverseSqrt` to about 1. A sum of 0 gives 0, so that a constant channel comes out
/// as beta even without epsilon; an infinite sum gives 0 and a negative one what `inverseSqrt` gives, both unrefined.
fn inverse_deviation(variance: f32, epsilon: f32) -> f32 {
    let sum = variance + epsilon;
    if sum == 0.0 {
        return 0.0;
    }
    let rough = inverseSqrt(sum);
    let residual = fma(-sum * rough, rough, 1.0);
    let refined = fma(0.5 * rough, residual, rough);
    return select(rough, refined, sum > 1e-37 && sum < 1e37);
}
