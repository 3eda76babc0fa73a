// A convolution of odd size, stride 1 and zeros around the image, so that the image keeps its size:
//
//     output[n, o, p] = Σᵢ Σₖ input[n, i, p + k − centre] · weight[o, i, k] + bias[o]
//
// The same kernel is its own backward: dL/dinput is a convolution of dL/doutput with the taps in reverse order and the two
// channels of the weight swapped. Strides say where things stand, so that one text serves both layouts.
//
// One invocation per block of 4 positions × 4 output channels: what it loads is used four times. Positions count over the batch.

// Whether the result is added to what is there.
override accumulate: bool = false;
override biased: bool = false;
// Whether negative results become 0, for networks that are only evaluated.
override relu: bool = false;

struct Shape {
    images: u32,
    inputs: u32,
    outputs: u32,
    height: u32,
    width: u32,
    // Taps along a side of the weight.
    size: u32,
    // 1: taps in reverse order.
    reversed: u32,
    // 1: channels stand last in input and output, 0: after the images.
    channels_last: u32,
    // From one output channel to the next, and from one input channel to the next, in the weight.
    weight_output: u32,
    weight_input: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

fn store(position: u32, first: u32, sums: vec4<f32>) {
    let pixels = shape.height * shape.width;
    if position >= shape.images * pixels {
        return;
    }
    let image = position / pixels;
    let pixel = position % pixels;
    for (var i = 0u; i < 4u; i++) {
        let channel = first + i;
        if channel < shape.outputs {
            let plain = (image * shape.outputs + channel) * pixels + pixel;
            let index = select(plain, position * shape.outputs + channel, shape.channels_last != 0u);
            var value = sums[i];
            if biased {
                value += bias[channel];
            }
            if relu {
                value = max(value, 0.0);
            }
            if accumulate {
                value += output[index];
            }
            output[index] = value;
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let pixels = shape.height * shape.width;
    let positions = shape.images * pixels;
    let blocks = (positions + 3u) / 4u;
    // Neighbouring invocations have neighbouring positions.
    let first_position = id.x % blocks * 4u;
    let first = id.x / blocks * 4u;
    if first >= shape.outputs {
        return;
    }
    // Past the edge the last one is repeated; `store` drops it.
    let position = min(vec4(first_position) + vec4(0u, 1u, 2u, 3u), vec4(positions - 1u));
    let channel = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(shape.outputs - 1u));
    let image = position / pixels;
    let pixel = position % pixels;
    let row = vec4<i32>(pixel / shape.width);
    let column = vec4<i32>(pixel % shape.width);
    let last = shape.channels_last != 0u;
    let channel_stride = select(pixels, 1u, last);
    let pixel_stride = select(1u, shape.inputs, last);
    let centre = i32(shape.size / 2u);
    let taps = shape.size * shape.size;

    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var tap = 0u; tap < taps; tap++) {
        let y = row + i32(tap / shape.size) - centre;
        let x = column + i32(tap % shape.size) - centre;
        let inside = (y >= vec4(0)) & (y < vec4(i32(shape.height))) & (x >= vec4(0)) & (x < vec4(i32(shape.width)));
        let mask = select(vec4(0.0), vec4(1.0), inside);
        let moved = select(vec4(0u), vec4<u32>(y * i32(shape.width) + x), inside);
        let start = image * (shape.inputs * pixels) + moved * pixel_stride;
        let weights = channel * shape.weight_output + select(tap, taps - 1u - tap, shape.reversed != 0u);
        for (var i = 0u; i < shape.inputs; i++) {
            let at = start + i * channel_stride;
            let values = vec4(input[at.x], input[at.y], input[at.z], input[at.w]) * mask;
            let tap_start = weights + i * shape.weight_input;
            let factors = vec4(weight[tap_start.x], weight[tap_start.y], weight[tap_start.z], weight[tap_start.w]);
            sums_0 += values.x * factors;
            sums_1 += values.y * factors;
            sums_2 += values.z * factors;
            sums_3 += values.w * factors;
        }
    }
    store(first_position, first, sums_0);
    store(first_position + 1u, first, sums_1);
    store(first_position + 2u, first, sums_2);
    store(first_position + 3u, first, sums_3);
}
