// Gamma and beta, as the reduction before this dispatch left them where the coefficients of the same channel are written now.

fn recorded_parameters(channel: u32) -> vec2<f32> {
    return prepared[channel].xy;
}
