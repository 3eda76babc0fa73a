// sums[c] = Σ over images and pixels of values[n, c, p]: the gradient of a convolution's bias. One workgroup per channel.

// Whether the sums are added to what is there.
override accumulate: bool = false;

struct Shape {
    images: u32,
    channels: u32,
    pixels: u32,
    channels_last: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let channel = workgroup.x;
    var sum = 0.0;
    for (var position = lane; position < shape.images * shape.pixels; position += 64u) {
        let plain = (position / shape.pixels * shape.channels + channel) * shape.pixels + position % shape.pixels;
        sum += values[select(plain, position * shape.channels + channel, shape.channels_last != 0u)];
    }
    partial[lane] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[lane] += partial[lane + half];
        }
    }
    if lane == 0u {
        sums[channel] = partial[0] + select(0.0, sums[channel], accumulate);
    }
}
