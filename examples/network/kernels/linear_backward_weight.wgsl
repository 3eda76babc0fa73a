// weight_gradient[o, k] = Σₙ output_gradient[n, o] · input[n, k]
//
// One invocation per block of 4 outputs × 4 inputs; the sum over the batch stays in registers, so there is nothing to reduce
// afterwards. `inputs` is a multiple of 4.

// Whether the gradient is added to what is there.
override accumulate: bool = false;

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(2) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> weight_gradient: array<vec4<f32>>;

fn store(output: u32, column: u32, sum: vec4<f32>) {
    if output < shape.outputs {
        let index = output * (shape.inputs / 4u) + column;
        var gradient = sum;
        if accumulate {
            gradient += weight_gradient[index];
        }
        weight_gradient[index] = gradient;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let width = shape.inputs / 4u;
    let output = id.x / width * 4u;
    let column = id.x % width;
    if output >= shape.outputs {
        return;
    }
    let outputs = min(vec4(output) + vec4(0u, 1u, 2u, 3u), vec4(shape.outputs - 1u));
    var sum_0 = vec4<f32>();
    var sum_1 = vec4<f32>();
    var sum_2 = vec4<f32>();
    var sum_3 = vec4<f32>();
    for (var n = 0u; n < shape.rows; n++) {
        let values = input[n * width + column];
        let row = n * shape.outputs;
        sum_0 += output_gradient[row + outputs.x] * values;
        sum_1 += output_gradient[row + outputs.y] * values;
        sum_2 += output_gradient[row + outputs.z] * values;
        sum_3 += output_gradient[row + outputs.w] * values;
    }
    store(output, column, sum_0);
    store(output + 1u, column, sum_1);
    store(output + 2u, column, sum_2);
    store(output + 3u, column, sum_3);
}
