// Inference as one would first write it: an invocation has an element.

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
var<storage, read> mean: array<f32>;
@group(0) @binding(5)
var<storage, read> variance: array<f32>;
@group(0) @binding(6)
var<storage, read_write> y: array<f32>;

const THREADS = 256u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = (workgroup.y * workgroups.x + workgroup.x) * THREADS + thread;
    if index >= sizes.samples * sizes.channels * sizes.inner {
        return;
    }
    let channel = index / sizes.inner % sizes.channels;
    let inverse = inverseSqrt(variance[channel] + sizes.epsilon);
    y[index] = (x[index] - mean[channel]) * inverse * gamma[channel] + beta[channel];
}
