// Every pixel has an equal share of the gradient. One invocation per input.

// Whether the gradient is added to what is there.
override accumulate: bool = false;

struct Shape {
    images: u32,
    channels: u32,
    pixels: u32,
    channels_last: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> input_gradient: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let size = shape.channels * shape.pixels;
    if id.x >= shape.images * size {
        return;
    }
    let channel = select(id.x / shape.pixels, id.x, shape.channels_last != 0u) % shape.channels;
    var gradient = output_gradient[id.x / size * shape.channels + channel] / f32(shape.pixels);
    if accumulate {
        gradient += input_gradient[id.x];
    }
    input_gradient[id.x] = gradient;
}
