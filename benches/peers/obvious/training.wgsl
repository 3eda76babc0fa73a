// Training forward as one would first write it: a workgroup has a channel, and goes over it three times.

struct Sizes {
    samples: u32,
    channels: u32,
    // Elements of a channel in one sample.
    inner: u32,
    epsilon: f32,
    momentum: f32,
}

@group(0) @binding(0)
var<uniform> sizes: Sizes;
@group(0) @binding(1)
var<storage, read> x: array<f32>;
@group(0) @binding(2)
var<storage, read> gamma: array<f32>;
@group(0) @binding(3)
var<storage, read> beta: array<f32>;
@group(0) @binding(4)
var<storage, read_write> y: array<f32>;
@group(0) @binding(5)
var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(6)
var<storage, read_write> running_variance: array<f32>;
@group(0) @binding(7)
var<storage, read_write> saved_mean: array<f32>;
@group(0) @binding(8)
var<storage, read_write> saved_inverse: array<f32>;

const THREADS = 256u;

var<workgroup> shared_sums: array<f32, THREADS>;

fn index_of(element: u32, channel: u32) -> u32 {
    let sample = element / sizes.inner;
    return (sample * sizes.channels + channel) * sizes.inner + element % sizes.inner;
}

fn total(thread: u32, value: f32) -> f32 {
    shared_sums[thread] = value;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            shared_sums[thread] += shared_sums[thread + half];
        }
        workgroupBarrier();
    }
    let sum = shared_sums[0];
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let channel = workgroup.x;
    let count = sizes.samples * sizes.inner;
    var sum = 0.0;
    for (var element = thread; element < count; element += THREADS) {
        sum += x[index_of(element, channel)];
    }
    let mean = total(thread, sum) / f32(count);
    var squares = 0.0;
    for (var element = thread; element < count; element += THREADS) {
        let deviation = x[index_of(element, channel)] - mean;
        squares += deviation * deviation;
    }
    let variance = total(thread, squares) / f32(count);
    let inverse = inverseSqrt(variance + sizes.epsilon);
    for (var element = thread; element < count; element += THREADS) {
        let index = index_of(element, channel);
        y[index] = (x[index] - mean) * inverse * gamma[channel] + beta[channel];
    }
    if thread == 0u {
        saved_mean[channel] = mean;
        saved_inverse[channel] = inverse;
        let unbiased = variance * f32(count) / f32(max(count, 2u) - 1u);
        running_mean[channel] += sizes.momentum * (mean - running_mean[channel]);
        running_variance[channel] += sizes.momentum * (unbiased - running_variance[channel]);
    }
}
