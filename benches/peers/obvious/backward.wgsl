// Backward as one would first write it: a workgroup has a channel, and goes over it twice.

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
var<storage, read> dy: array<f32>;
@group(0) @binding(3)
var<storage, read> gamma: array<f32>;
@group(0) @binding(4)
var<storage, read> saved_mean: array<f32>;
@group(0) @binding(5)
var<storage, read> saved_inverse: array<f32>;
@group(0) @binding(6)
var<storage, read_write> dx: array<f32>;
@group(0) @binding(7)
var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(8)
var<storage, read_write> dbeta: array<f32>;

const THREADS = 256u;

var<workgroup> shared_gamma: array<f32, THREADS>;
var<workgroup> shared_beta: array<f32, THREADS>;

fn index_of(element: u32, channel: u32) -> u32 {
    let sample = element / sizes.inner;
    return (sample * sizes.channels + channel) * sizes.inner + element % sizes.inner;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let channel = workgroup.x;
    let count = sizes.samples * sizes.inner;
    let mean = saved_mean[channel];
    let inverse = saved_inverse[channel];
    var sum_gamma = 0.0;
    var sum_beta = 0.0;
    for (var element = thread; element < count; element += THREADS) {
        let index = index_of(element, channel);
        sum_gamma += dy[index] * (x[index] - mean) * inverse;
        sum_beta += dy[index];
    }
    shared_gamma[thread] = sum_gamma;
    shared_beta[thread] = sum_beta;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            shared_gamma[thread] += shared_gamma[thread + half];
            shared_beta[thread] += shared_beta[thread + half];
        }
        workgroupBarrier();
    }
    let gradient_gamma = shared_gamma[0];
    let gradient_beta = shared_beta[0];
    for (var element = thread; element < count; element += THREADS) {
        let index = index_of(element, channel);
        let normalized = (x[index] - mean) * inverse;
        let centred = dy[index] - (gradient_beta + normalized * gradient_gamma) / f32(count);
        dx[index] = gamma[channel] * inverse * centred;
    }
    if thread == 0u {
        dgamma[channel] = gradient_gamma;
        dbeta[channel] = gradient_beta;
    }
}
