// output[n, o] = Σₖ input[n, k] · weight[o, k] + bias[o]
//
// One invocation per block of 4 rows × 4 outputs: each vec4 that it loads is used four times. Both factors run along k in
// memory, so nothing is staged in workgroup memory and there is no barrier. `inputs` is a multiple of 4.

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

fn store(row: u32, first: u32, sums: vec4<f32>) {
    if row >= shape.rows {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if first + i < shape.outputs {
            output[row * shape.outputs + first + i] = sums[i] + bias[first + i];
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column_blocks = (shape.outputs + 3u) / 4u;
    let row_block = id.x / column_blocks;
    let column = id.x % column_blocks * 4u;
    let row = row_block * 4u;
    if row >= shape.rows {
        return;
    }
    // Rows and outputs past the edge repeat the last one; `store` drops them.
    let width = shape.inputs / 4u;
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(shape.rows - 1u)) * width;
    let columns = min(vec4(column) + vec4(0u, 1u, 2u, 3u), vec4(shape.outputs - 1u)) * width;
    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var k = 0u; k < width; k++) {
        let weights = mat4x4(weight[columns.x + k], weight[columns.y + k], weight[columns.z + k], weight[columns.w + k]);
        // A row vector times a matrix: one dot product per column, here per output.
        sums_0 += input[rows.x + k] * weights;
        sums_1 += input[rows.y + k] * weights;
        sums_2 += input[rows.z + k] * weights;
        sums_3 += input[rows.w + k] * weights;
    }
    store(row, column, sums_0);
    store(row + 1u, column, sums_1);
    store(row + 2u, column, sums_2);
    store(row + 3u, column, sums_3);
}
