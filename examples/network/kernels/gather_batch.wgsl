// Copies the chosen samples of one batch out of a data set on the device, so that the host never uploads them after the start.
//
// A sample is `steps` rows of `width` words of 32 bits. In the batch, the first rows of all samples stand before the second rows,
// and so on: with one step that is a sample after the other. One invocation per word of the batch.

struct Shape {
    samples: u32,
    steps: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> all: array<u32>;
@group(0) @binding(2) var<storage, read> chosen: array<u32>;
@group(0) @binding(3) var<storage, read_write> batch: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= shape.samples * shape.steps * shape.width {
        return;
    }
    let column = id.x % shape.width;
    let row = id.x / shape.width;
    let sample = row % shape.samples;
    let step = row / shape.samples;
    batch[id.x] = all[(chosen[sample] * shape.steps + step) * shape.width + column];
}
