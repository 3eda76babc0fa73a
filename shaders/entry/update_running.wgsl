// Running statistics that segments share, from the records of their channels, an invocation each.

@group(0) @binding(5)
var<storage, read> statistics: array<vec4<f32>>;
@group(0) @binding(6)
var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(7)
var<storage, read_write> running_variance: array<f32>;
@group(0) @binding(13)
var<storage, read> batches_tracked: array<u32>;

/// Segments that are added up before they are added to the others: long chains of additions lose digits.
const SEGMENTS_PER_LEVEL: u32 = 32u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let parameter = linear_group(workgroup, workgroups) * WORKGROUP_SIZE + invocation;
    if parameter >= params.parameter_channels {
        return;
    }
    if has(AVERAGES_SEGMENTS) {
        update_by_average(parameter);
    } else {
        update_in_turn(parameter);
    }
}

fn update_in_turn(parameter: u32) {
    var mean = running_mean[parameter];
    var variance = running_variance[parameter];
    for (var segment = 0u; segment < params.segments; segment++) {
        let channel = channel_at(segment, parameter);
        let recorded = recorded_at(channel);
        if has_enough(channel) && admits(recorded) {
            let weights = weights_after(segment);
            mean = moving_average(mean, recorded.x, weights.x, weights.y);
            variance = moving_average(variance, recorded.y, weights.x, weights.y);
        }
    }
    running_mean[parameter] = mean;
    running_variance[parameter] = variance;
}

fn update_by_average(parameter: u32) {
    var total = vec2<f32>();
    var counted = 0u;
    for (var level = 0u; level < params.segments; level += SEGMENTS_PER_LEVEL) {
        var sum = vec2<f32>();
        for (var segment = level; segment < min(level + SEGMENTS_PER_LEVEL, params.segments); segment++) {
            let channel = channel_at(segment, parameter);
            let enough = has_enough(channel);
            sum += select(vec2<f32>(), recorded_at(channel), enough);
            counted += select(0u, 1u, enough);
        }
        total += sum;
    }
    let average = total / f32(max(counted, 1u));
    if counted != 0u && admits(average) {
        let weights = weights_after(0u);
        running_mean[parameter] = moving_average(running_mean[parameter], average.x, weights.x, weights.y);
        running_variance[parameter] = moving_average(running_variance[parameter], average.y, weights.x, weights.y);
    }
}

/// The mean of a channel, and its variance as running statistics take it.
fn recorded_at(channel: u32) -> vec2<f32> {
    let record = statistics[channel];
    return vec2<f32>(record.x + record.y, record.w * variance_factor(channel));
}

fn admits(recorded: vec2<f32>) -> bool {
    return !has(GUARDS_RUNNING) || (is_finite(recorded.x) && is_finite(recorded.y));
}

/// Of the old value and of the new one, after as many segments of this batch.
fn weights_after(segment: u32) -> vec2<f32> {
    if has(CUMULATIVE) {
        let before = f32(batches_tracked[0]) + f32(segment);
        return vec2<f32>(before / (before + 1.0), 1.0 / (before + 1.0));
    }
    return vec2<f32>(params.weight_of_old, params.weight_of_new);
}
