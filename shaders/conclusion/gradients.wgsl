// What follows from the gradient sums of a channel: dgamma = Σh·x̂ and dbeta = Σh.

@group(0) @binding(11)
var<storage, read_write> gamma_gradient: array<f32>;
@group(0) @binding(12)
var<storage, read_write> beta_gradient: array<f32>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            commit_channel(channels[component], merged.product[component], merged.sum[component]);
        }
    }
}

fn commit_channel(channel: u32, gamma: f32, beta: f32) {
    if has(WANTS_GAMMA_GRADIENT) {
        if has(ACCUMULATES_GAMMA_GRADIENT) {
            gamma_gradient[channel] += gamma;
        } else {
            gamma_gradient[channel] = gamma;
        }
    }
    if has(WANTS_BETA_GRADIENT) {
        if has(ACCUMULATES_BETA_GRADIENT) {
            beta_gradient[channel] += beta;
        } else {
            beta_gradient[channel] = beta;
        }
    }
}
