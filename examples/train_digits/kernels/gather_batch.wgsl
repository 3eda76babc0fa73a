// Copies the rows of one batch out of the training set, so that the host never uploads images after the start.
//
// One invocation per vec4 of the batch.

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> images: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> chosen: array<u32>;
@group(0) @binding(4) var<storage, read_write> batch_images: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> batch_labels: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let width = shape.inputs / 4u;
    let row = id.x / width;
    let column = id.x % width;
    if row >= shape.rows {
        return;
    }
    batch_images[id.x] = images[chosen[row] * width + column];
    if column == 0u {
        batch_labels[row] = labels[chosen[row]];
    }
}
