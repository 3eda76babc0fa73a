// Batch renormalization, found and recorded: (scale R, shift D) a channel, from the batch's statistics and the running ones of
// the batches before. Depends on `running_mean` and `running_variance`.

@group(0) @binding(24)
var<storage, read_write> renormalization: array<vec2<f32>>;
/// r_max, d_max.
@group(0) @binding(25)
var<storage, read> renormalization_limits: array<f32>;

/// R = σ_B/σ and D = (μ_B − μ)/σ, within their limits.
fn correct(channel: u32, pivot: f32, offset: f32, variance: f32) -> vec2<f32> {
    if !has(RENORMALIZES) {
        return vec2<f32>(1.0, 0.0);
    }
    let recorded = select(channel, parameter_of(channel), has(SHARES_RUNNING));
    let inverse = inverse_deviation(running_variance[recorded], params.epsilon);
    let scale_limit = renormalization_limits[0];
    let shift_limit = renormalization_limits[1];
    let ratio = sqrt(variance + params.epsilon) * inverse;
    let difference = ((pivot - running_mean[recorded]) + offset) * inverse;
    let correction = vec2<f32>(
        limited(ratio, 1.0 / scale_limit, scale_limit),
        limited(difference, -shift_limit, shift_limit),
    );
    renormalization[channel] = correction;
    return correction;
}

/// `clamp` may turn a NaN into a number.
fn limited(value: f32, lowest: f32, highest: f32) -> f32 {
    return select(clamp(value, lowest, highest), value, is_nan(value));
}
