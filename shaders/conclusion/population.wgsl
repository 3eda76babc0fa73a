// The mean and variance of all batches that were accumulated, as running statistics.

/// Count as u32 bits, pivot, offset, M2; the mean is pivot + offset.
@group(0) @binding(20)
var<storage, read> moments: array<vec4<u32>>;
@group(0) @binding(6)
var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(7)
var<storage, read_write> running_variance: array<f32>;

fn visit_channel(channel: u32) {
    let record = moments[channel];
    if record.x == 0u {
        return;
    }
    let values = bitcast<vec4<f32>>(record);
    running_mean[channel] = values.y + values.z;
    let unbiased = has(UNBIASED) && record.x > 1u;
    running_variance[channel] = values.w / f32(record.x - select(0u, 1u, unbiased));
}
