// What a fully connected network needs beside batch norm. One invocation an element of what is written.

struct Shape {
    /// Of this rank's share of the batch.
    rows: u32,
    inputs: u32,
    outputs: u32,
    /// Of the whole batch.
    batch: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> c: array<f32>;
@group(0) @binding(4) var<storage, read_write> result: array<f32>;
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;
@group(0) @binding(6) var<storage, read> labels: array<u32>;

/// result[n, o] = Σₖ a[n, k] · b[o, k] + c[o]
@compute @workgroup_size(64)
fn linear_forward(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.rows * shape.outputs {
        let row = id.x / shape.outputs;
        let output = id.x % shape.outputs;
        var sum = c[output];
        for (var k = 0u; k < shape.inputs; k++) {
            sum += a[row * shape.inputs + k] * b[output * shape.inputs + k];
        }
        result[id.x] = sum;
    }
}

/// result[n, k] = Σₒ a[n, o] · b[o, k]
@compute @workgroup_size(64)
fn linear_backward_input(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.rows * shape.inputs {
        let row = id.x / shape.inputs;
        let k = id.x % shape.inputs;
        var sum = 0.0;
        for (var output = 0u; output < shape.outputs; output++) {
            sum += a[row * shape.outputs + output] * b[output * shape.inputs + k];
        }
        result[id.x] = sum;
    }
}

/// result[o, k] = Σₙ a[n, o] · b[n, k]
@compute @workgroup_size(64)
fn linear_backward_weight(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.outputs * shape.inputs {
        let output = id.x / shape.inputs;
        let k = id.x % shape.inputs;
        var sum = 0.0;
        for (var row = 0u; row < shape.rows; row++) {
            sum += a[row * shape.outputs + output] * b[row * shape.inputs + k];
        }
        result[id.x] = sum;
    }
}

/// result[o] = Σₙ a[n, o]
@compute @workgroup_size(64)
fn linear_backward_bias(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.outputs {
        var sum = 0.0;
        for (var row = 0u; row < shape.rows; row++) {
            sum += a[row * shape.outputs + id.x];
        }
        result[id.x] = sum;
    }
}

@compute @workgroup_size(64)
fn sigmoid_forward(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.rows * shape.outputs {
        // Beyond −80, exp would overflow to infinity, which WGSL does not promise to handle.
        result[id.x] = 1.0 / (1.0 + exp(-max(a[id.x], -80.0)));
    }
}

/// From the output a and its gradient b.
@compute @workgroup_size(64)
fn sigmoid_backward(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.rows * shape.outputs {
        result[id.x] = b[id.x] * a[id.x] * (1.0 - a[id.x]);
    }
}

/// The gradient of the mean cross entropy of the whole batch by the logits a; and the loss of each row.
@compute @workgroup_size(64)
fn softmax_cross_entropy(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.rows {
        let first = id.x * shape.outputs;
        var largest = a[first];
        for (var column = 1u; column < shape.outputs; column++) {
            largest = max(largest, a[first + column]);
        }
        var sum = 0.0;
        for (var column = 0u; column < shape.outputs; column++) {
            sum += exp(a[first + column] - largest);
        }
        let label = labels[id.x];
        for (var column = 0u; column < shape.outputs; column++) {
            let probability = exp(a[first + column] - largest) / sum;
            result[first + column] = (probability - select(0.0, 1.0, column == label)) / f32(shape.batch);
        }
        scores[id.x] = log(sum) - (a[first + label] - largest);
    }
}

/// result −= 0.5 · a, which is the learning rate.
@compute @workgroup_size(64)
fn update(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&result) {
        result[id.x] -= 0.5 * a[id.x];
    }
}
