// Makes the coefficients of a channel: where batch renormalization corrected it, x̂·R + D takes the place of x̂.

fn visit_channel(channel: u32) {
    let correction = renormalization_at(channel);
    let gamma = gamma_at(channel);
    let beta = beta_at(channel);
    // Not by a shift of 0, which an infinite gamma would make a NaN.
    let shifted = select(beta, gamma * correction.y + beta, has(RENORMALIZES));
    write_normalizer(channel, normalizer_at(channel), gamma * correction.x, shifted);
}
