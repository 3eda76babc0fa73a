// 1 for each sequence that still lasts at a step, otherwise 0. One invocation per sequence.

struct Shape {
    sequences: u32,
    width: u32,
    step: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read_write> flags: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < shape.sequences {
        flags[id.x] = select(0u, 1u, shape.step < lengths[id.x]);
    }
}
