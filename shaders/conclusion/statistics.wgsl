// What follows from the statistics of a channel: its record, and the running statistics.

@group(0) @binding(5)
var<storage, read_write> statistics: array<vec4<f32>>;
@group(0) @binding(6)
var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(7)
var<storage, read_write> running_variance: array<f32>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let offset = mean_of(merged.sum, channels);
    let variance = mean_of(merged.m2, channels);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            commit_channel(channels[component], merged.pivot[component], offset[component], variance[component]);
        }
    }
}

fn commit_channel(channel: u32, pivot: f32, offset: f32, variance: f32) {
    if has(SAVES_STATISTICS) {
        statistics[channel] = vec4<f32>(pivot, offset, inverse_deviation(variance, params.epsilon), variance);
    }
    let recorded = variance * variance_factor(channel);
    let healthy = is_finite(pivot + offset) && is_finite(recorded);
    if has(UPDATES_RUNNING) && has_enough(channel) && (healthy || !has(GUARDS_RUNNING)) {
        var weight_of_new = params.weight_of_new;
        var weight_of_old = params.weight_of_old;
        if has(CUMULATIVE) {
            let batches = batches_before();
            weight_of_new = 1.0 / (batches + 1.0);
            weight_of_old = batches / (batches + 1.0);
        }
        running_mean[channel] = moving_average(running_mean[channel], pivot + offset, weight_of_old, weight_of_new);
        running_variance[channel] = moving_average(running_variance[channel], recorded, weight_of_old, weight_of_new);
    }
}
