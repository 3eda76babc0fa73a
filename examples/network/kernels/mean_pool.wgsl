// output[n, c] = the mean of all pixels. One invocation per output.

struct Shape {
    images: u32,
    channels: u32,
    pixels: u32,
    channels_last: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= shape.images * shape.channels {
        return;
    }
    let last = shape.channels_last != 0u;
    let image = id.x / shape.channels;
    let channel = id.x % shape.channels;
    let first = image * shape.channels * shape.pixels + channel * select(shape.pixels, 1u, last);
    var sum = 0.0;
    for (var pixel = 0u; pixel < shape.pixels; pixel++) {
        sum += input[first + pixel * select(1u, shape.channels, last)];
    }
    output[id.x] = sum / f32(shape.pixels);
}
