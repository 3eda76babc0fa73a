// The largest of each 2 × 2 pixels. One invocation per output.

struct Shape {
    images: u32,
    channels: u32,
    // Of the output.
    height: u32,
    width: u32,
    channels_last: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let pixels = shape.height * shape.width;
    if id.x >= shape.images * shape.channels * pixels {
        return;
    }
    let last = shape.channels_last != 0u;
    let pixel = select(id.x, id.x / shape.channels, last) % pixels;
    let channel = select(id.x / pixels, id.x, last) % shape.channels;
    let image = id.x / (pixels * shape.channels);
    let step = select(1u, shape.channels, last);
    let line = 2u * shape.width * step;
    let first = image * 4u * pixels * shape.channels + channel * select(4u * pixels, 1u, last)
        + pixel / shape.width * 2u * line + pixel % shape.width * 2u * step;
    output[id.x] = max(max(input[first], input[first + step]), max(input[first + line], input[first + line + step]));
}
