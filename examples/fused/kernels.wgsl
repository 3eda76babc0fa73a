// 1×1 convolutions, which are products with a matrix, and what they take along of the batch norm between two of them: its reductions
// behind a product, while a column is still in registers, and its maps before one, while a row is on its way to workgroup memory.
//
// A workgroup has some rows (pixels), and an invocation a column of them.

const WIDTH = 64u;
const ROWS = 16u;

/// Multiplies by the transposed matrix, as backward does.
override transposed = false;

/// The crate's `ChannelMoments`.
struct Moments {
    count: u32,
    pivot: f32,
    offset: f32,
    m2: f32,
}

/// The crate's `ChannelStatistics`.
struct Statistics {
    pivot: f32,
    offset: f32,
    inverse_deviation: f32,
    variance: f32,
}

/// What is multiplied, or becomes what is multiplied by a map.
@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
/// Part after part, a record a channel; a workgroup is a part.
@group(0) @binding(3) var<storage, read_write> moments: array<Moments>;
@group(0) @binding(4) var<storage, read> statistics: array<Statistics>;
@group(0) @binding(5) var<storage, read> gamma: array<f32>;
@group(0) @binding(6) var<storage, read> beta: array<f32>;
/// x of the batch norm.
@group(0) @binding(7) var<storage, read> before: array<f32>;
/// The crate's `ChannelGradientSums`, as `moments`: Σh, Σh·x̂.
@group(0) @binding(8) var<storage, read_write> part_sums: array<vec2<f32>>;
/// The same of the whole batch.
@group(0) @binding(9) var<storage, read> sums: array<vec2<f32>>;

var<workgroup> tile: array<f32, WIDTH * ROWS>;

fn rows() -> u32 {
    return arrayLength(&input) / WIDTH;
}

/// Rows of a workgroup that are there.
fn rows_of(group: u32) -> u32 {
    return min(ROWS, rows() - group * ROWS);
}

/// An element of the product of the tile with the matrix.
fn product(row: u32, column: u32) -> f32 {
    var sum = 0.0;
    for (var k = 0u; k < WIDTH; k++) {
        sum += tile[row * WIDTH + k] * weight[select(k * WIDTH + column, column * WIDTH + k, transposed)];
    }
    return sum;
}

fn normalised(x: f32, channel: u32) -> f32 {
    let s = statistics[channel];
    return ((x - s.pivot) - s.offset) * s.inverse_deviation;
}

fn logistic(t: f32) -> f32 {
    // Beyond −80, exp would overflow to infinity, which WGSL does not promise to handle.
    return 1.0 / (1.0 + exp(-max(t, -80.0)));
}

/// A product alone.
@compute @workgroup_size(64)
fn multiply(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) column: u32) {
    let first = workgroup.x * ROWS;
    let count = rows_of(workgroup.x);
    for (var row = 0u; row < count; row++) {
        tile[row * WIDTH + column] = input[(first + row) * WIDTH + column];
    }
    workgroupBarrier();
    for (var row = 0u; row < count; row++) {
        output[(first + row) * WIDTH + column] = product(row, column);
    }
}

/// A product, and the moments of what it gives.
@compute @workgroup_size(64)
fn multiply_and_take_moments(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) column: u32,
) {
    let first = workgroup.x * ROWS;
    let count = rows_of(workgroup.x);
    for (var row = 0u; row < count; row++) {
        tile[row * WIDTH + column] = input[(first + row) * WIDTH + column];
    }
    workgroupBarrier();
    var values: array<f32, ROWS>;
    for (var row = 0u; row < count; row++) {
        values[row] = product(row, column);
        output[(first + row) * WIDTH + column] = values[row];
    }
    // Relative to a value of the channel, so that a large mean costs no digits.
    let pivot = values[0];
    var sum = 0.0;
    for (var row = 0u; row < count; row++) {
        sum += values[row] - pivot;
    }
    let offset = sum / f32(count);
    var m2 = 0.0;
    for (var row = 0u; row < count; row++) {
        let centred = (values[row] - pivot) - offset;
        m2 += centred * centred;
    }
    moments[workgroup.x * WIDTH + column] = Moments(count, pivot, offset, m2);
}

/// Batch norm and SiLU of what is multiplied, which is written nowhere, and the product.
@compute @workgroup_size(64)
fn normalise_and_multiply(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) column: u32,
) {
    let first = workgroup.x * ROWS;
    let count = rows_of(workgroup.x);
    for (var row = 0u; row < count; row++) {
        let t = normalised(input[(first + row) * WIDTH + column], column) * gamma[column] + beta[column];
        tile[row * WIDTH + column] = t * logistic(t);
    }
    workgroupBarrier();
    for (var row = 0u; row < count; row++) {
        output[(first + row) * WIDTH + column] = product(row, column);
    }
}

/// A product, which is a gradient behind the activation; the gradient before the activation, and its sums.
@compute @workgroup_size(64)
fn multiply_and_take_gradient_sums(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) column: u32,
) {
    let first = workgroup.x * ROWS;
    let count = rows_of(workgroup.x);
    for (var row = 0u; row < count; row++) {
        tile[row * WIDTH + column] = input[(first + row) * WIDTH + column];
    }
    workgroupBarrier();
    var own = vec2<f32>();
    for (var row = 0u; row < count; row++) {
        let at = (first + row) * WIDTH + column;
        let x = normalised(before[at], column);
        let t = x * gamma[column] + beta[column];
        let share = logistic(t);
        let h = product(row, column) * share * (1.0 + t * (1.0 - share));
        output[at] = h;
        own += vec2<f32>(h, h * x);
    }
    part_sums[workgroup.x * WIDTH + column] = own;
}

/// Batch norm's dx of what is multiplied, which is written nowhere, and the product.
@compute @workgroup_size(64)
fn input_gradient_and_multiply(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) column: u32,
) {
    let first = workgroup.x * ROWS;
    let count = rows_of(workgroup.x);
    let means = sums[column] / f32(rows());
    let factor = gamma[column] * statistics[column].inverse_deviation;
    for (var row = 0u; row < count; row++) {
        let at = (first + row) * WIDTH + column;
        let x = normalised(before[at], column);
        tile[row * WIDTH + column] = factor * ((input[at] - means.x) - x * means.y);
    }
    workgroupBarrier();
    for (var row = 0u; row < count; row++) {
        output[(first + row) * WIDTH + column] = product(row, column);
    }
}
