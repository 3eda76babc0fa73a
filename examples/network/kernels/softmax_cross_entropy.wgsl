// Softmax, cross entropy with the label, and its gradient with respect to the logits.
//
// Loss and hits are added up per row over all steps until the host clears them, so that a look at the training loss costs one
// small read-back for many steps. One invocation per row.

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
// Of the mean loss of the batch.
@group(0) @binding(3) var<storage, read_write> logits_gradient: array<f32>;
// Per row: the sum of the losses, the count of hits.
@group(0) @binding(4) var<storage, read_write> scores: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if row >= shape.rows {
        return;
    }
    let first = row * shape.outputs;
    let label = labels[row];
    var best = 0u;
    for (var column = 1u; column < shape.outputs; column++) {
        if logits[first + column] > logits[first + best] {
            best = column;
        }
    }
    // With the largest logit taken off, every exponential is at most 1.
    let largest = logits[first + best];
    var sum = 0.0;
    for (var column = 0u; column < shape.outputs; column++) {
        sum += exp(logits[first + column] - largest);
    }
    for (var column = 0u; column < shape.outputs; column++) {
        let probability = exp(logits[first + column] - largest) / sum;
        let target_probability = select(0.0, 1.0, column == label);
        logits_gradient[first + column] = (probability - target_probability) / f32(shape.rows);
    }
    let loss = log(sum) - (logits[first + label] - largest);
    scores[row] += vec2(loss, select(0.0, 1.0, best == label));
}
