// Merges the partial statistics of each channel, writes the record for normalise and backward, and updates the running
// statistics. A lane is a group of four channels, its positions walk the slots.

@group(0) @binding(10)
var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(5)
var<storage, read_write> statistics: array<vec4<f32>>;
@group(0) @binding(6)
var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(7)
var<storage, read_write> running_variance: array<f32>;
/// Batches tracked before this one; a placeholder when the caller has no counter.
@group(0) @binding(14)
var<storage, read_write> batches_tracked: array<u32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = linear_group(workgroup, workgroups);
    if group >= params.groups {
        return;
    }
    let quads = params.stride / 4u;
    let lane = invocation % params.lanes;
    let position = invocation / params.lanes;
    let quad = group * params.lanes + lane;
    let participates = position < params.positions && quad < quads;
    let safe_quad = min(quad, quads - 1u);

    // Slot 0 always holds data; relative to its pivot most sums are small.
    let first_pivot = partials[quads + safe_quad];
    var state = Accumulator(first_pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
    if participates {
        for (var slot = position; slot < params.slots; slot += params.positions) {
            let at = slot * params.stride + quad;
            state = merge(state, Accumulator(first_pivot, partials[at], slot_sum(at, first_pivot), partials[at + 3u * quads]));
        }
    }
    var merged = merge_positions(state, lane, position, participates);
    var pivot = first_pivot;
    if params.slots > 1u {
        // A slot's pivot may be an outlier, the first one too; relative to the mean found so far all sums are small.
        pivot = broadcast(first_pivot + mean_of(merged.sum), lane, position, participates);
        var centred = Accumulator(pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
        if participates {
            for (var slot = position; slot < params.slots; slot += params.positions) {
                centred.sum += slot_sum(slot * params.stride + quad, pivot);
            }
        }
        merged.sum = merge_positions(centred, lane, position, participates).sum;
    }
    if participates && position == 0u {
        let offset = mean_of(merged.sum);
        let variance = mean_of(merged.m2);
        for (var component = 0u; component < 4u; component++) {
            let channel = 4u * quad + component;
            if channel < params.channels {
                finish(channel, pivot[component], offset[component], variance[component]);
            }
        }
    }
}

/// The sum of a slot relative to another pivot. The pivot of an empty slot means nothing and may be anything.
fn slot_sum(at: u32, pivot: vec4<f32>) -> vec4<f32> {
    let quads = params.stride / 4u;
    let count = partials[at];
    let shift = select(vec4<f32>(), partials[at + quads] - pivot, count > vec4<f32>());
    return partials[at + 2u * quads] + count * shift;
}

/// The value that position 0 of a lane has, for all its positions. Must be called in uniform control flow.
fn broadcast(value: vec4<f32>, lane: u32, position: u32, participates: bool) -> vec4<f32> {
    if params.positions == 1u {
        return value;
    }
    if participates && position == 0u {
        sh_pivot[lane] = value;
    }
    workgroupBarrier();
    let held = sh_pivot[lane];
    workgroupBarrier();
    return held;
}

fn finish(channel: u32, pivot: f32, offset: f32, variance: f32) {
    statistics[channel] = vec4<f32>(pivot, offset, inverse_deviation(variance, params.epsilon), variance);
    if has(UPDATES_RUNNING) {
        var weight_of_new = params.weight_of_new;
        var weight_of_old = params.weight_of_old;
        if has(CUMULATIVE) {
            let batches = f32(batches_tracked[0]);
            weight_of_new = 1.0 / (batches + 1.0);
            weight_of_old = batches / (batches + 1.0);
        }
        running_mean[channel] = weight_of_old * running_mean[channel] + weight_of_new * (pivot + offset);
        running_variance[channel] = weight_of_old * running_variance[channel]
            + weight_of_new * (variance * params.variance_factor);
    }
}
