// The gradient of one of the summands of recurrent_cell.wgsl, or of what was carried over; one invocation per value.

// Whether the gradient is added to what is there.
override accumulate: bool = false;
// Of the previous state rather than of a summand.
override carried: bool = false;

struct Shape {
    sequences: u32,
    width: u32,
    step: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read> output: array<f32>;
@group(0) @binding(3) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= shape.sequences * shape.width {
        return;
    }
    let lasts = shape.step < lengths[id.x / shape.width];
    var value = 0.0;
    if lasts != carried {
        let y = output[id.x];
        value = output_gradient[id.x] * select(1.0 - y * y, 1.0, carried);
    }
    if accumulate {
        value += gradient[id.x];
    }
    gradient[id.x] = value;
}
