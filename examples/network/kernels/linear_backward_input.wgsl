// input_gradient[n, k] = Σₒ output_gradient[n, o] · weight[o, k]
//
// One invocation per block of 4 rows × 4 inputs. `inputs` is a multiple of 4.

// Whether the gradient is added to what is there.
override accumulate: bool = false;

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> input_gradient: array<vec4<f32>>;

fn store(row: u32, column: u32, sum: vec4<f32>) {
    if row < shape.rows {
        let index = row * (shape.inputs / 4u) + column;
        var gradient = sum;
        if accumulate {
            gradient += input_gradient[index];
        }
        input_gradient[index] = gradient;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let width = shape.inputs / 4u;
    let row = id.x / width * 4u;
    let column = id.x % width;
    if row >= shape.rows {
        return;
    }
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(shape.rows - 1u)) * shape.outputs;
    var sum_0 = vec4<f32>();
    var sum_1 = vec4<f32>();
    var sum_2 = vec4<f32>();
    var sum_3 = vec4<f32>();
    for (var o = 0u; o < shape.outputs; o++) {
        let weights = weight[o * width + column];
        sum_0 += output_gradient[rows.x + o] * weights;
        sum_1 += output_gradient[rows.y + o] * weights;
        sum_2 += output_gradient[rows.z + o] * weights;
        sum_3 += output_gradient[rows.w + o] * weights;
    }
    store(row, column, sum_0);
    store(row + 1u, column, sum_1);
    store(row + 2u, column, sum_2);
    store(row + 3u, column, sum_3);
}
