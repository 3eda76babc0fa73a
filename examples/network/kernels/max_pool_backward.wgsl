// The gradient goes to the first of the four pixels that is the largest. One invocation per output, which writes all four.

// Whether the gradient is added to what is there.
override accumulate: bool = false;

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
@group(0) @binding(2) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> input_gradient: array<f32>;

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
    let corners = vec4(first, first + step, first + line, first + line + step);
    var best = 0u;
    for (var corner = 1u; corner < 4u; corner++) {
        if input[corners[corner]] > input[corners[best]] {
            best = corner;
        }
    }
    for (var corner = 0u; corner < 4u; corner++) {
        var gradient = select(0.0, output_gradient[id.x], corner == best);
        if accumulate {
            gradient += input_gradient[corners[corner]];
        }
        input_gradient[corners[corner]] = gradient;
    }
}
