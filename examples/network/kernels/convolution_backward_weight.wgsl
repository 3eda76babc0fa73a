// weight_gradient[o, i, k] = Σₙ Σₚ output_gradient[n, o, p] · input[n, i, p + k − centre]
//
// One workgroup per tap and block of 4 outputs × 4 inputs; its invocations share the positions among them and add up in a tree.

// Whether the gradient is added to what is there.
override accumulate: bool = false;

struct Shape {
    images: u32,
    inputs: u32,
    outputs: u32,
    height: u32,
    width: u32,
    size: u32,
    reversed: u32,
    channels_last: u32,
    weight_output: u32,
    weight_input: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(2) var<storage, read> input: array<f32>;
@group(0) @binding(3) var<storage, read_write> weight_gradient: array<f32>;

// A column an output, a row an input.
var<workgroup> sums: array<mat4x4<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pixels = shape.height * shape.width;
    let positions = shape.images * pixels;
    let taps = shape.size * shape.size;
    let tap = workgroup.x % taps;
    let block = workgroup.x / taps;
    let input_blocks = (shape.inputs + 3u) / 4u;
    let steps = vec4(0u, 1u, 2u, 3u);
    // Past the edge the last one is repeated, and dropped below.
    let inputs = min(vec4(block % input_blocks * 4u) + steps, vec4(shape.inputs - 1u));
    let outputs = min(vec4(block / input_blocks * 4u) + steps, vec4(shape.outputs - 1u));
    let last = shape.channels_last != 0u;
    let channel_stride = select(pixels, 1u, last);
    let centre = i32(shape.size / 2u);
    let up = i32(tap / shape.size) - centre;
    let left = i32(tap % shape.size) - centre;

    var sum = mat4x4<f32>();
    for (var position = lane; position < positions; position += 64u) {
        let image = position / pixels;
        let pixel = position % pixels;
        let y = i32(pixel / shape.width) + up;
        let x = i32(pixel % shape.width) + left;
        if y >= 0 && y < i32(shape.height) && x >= 0 && x < i32(shape.width) {
            let moved = u32(y * i32(shape.width) + x);
            let read = image * shape.inputs * pixels + moved * select(1u, shape.inputs, last) + inputs * channel_stride;
            let given = image * shape.outputs * pixels + pixel * select(1u, shape.outputs, last) + outputs * channel_stride;
            let values = vec4(input[read.x], input[read.y], input[read.z], input[read.w]);
            let gradients = vec4(
                output_gradient[given.x],
                output_gradient[given.y],
                output_gradient[given.z],
                output_gradient[given.w],
            );
            sum += mat4x4(values * gradients.x, values * gradients.y, values * gradients.z, values * gradients.w);
        }
    }
    sums[lane] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            sums[lane] += sums[lane + half];
        }
    }
    workgroupBarrier();
    // One of the 16 sums each.
    let output = block / input_blocks * 4u + lane / 4u;
    let channel = block % input_blocks * 4u + lane % 4u;
    if lane < 16u && output < shape.outputs && channel < shape.inputs {
        let index = output * shape.weight_output + channel * shape.weight_input + tap;
        var gradient = sums[0][lane / 4u][lane % 4u];
        if accumulate {
            gradient += weight_gradient[index];
        }
        weight_gradient[index] = gradient;
    }
}
