// A step of a recurrent network on sequences of unequal length:
//
//     output[n, j] = tanh(input[n, j] + recurrent[n, j])   while the sequence lasts
//     output[n, j] = previous[n, j]                        afterwards
//
// One invocation per value.

struct Shape {
    sequences: u32,
    width: u32,
    step: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read> input: array<f32>;
@group(0) @binding(3) var<storage, read> recurrent: array<f32>;
@group(0) @binding(4) var<storage, read> previous: array<f32>;
@group(0) @binding(5) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= shape.sequences * shape.width {
        return;
    }
    var value = previous[id.x];
    if shape.step < lengths[id.x / shape.width] {
        // Beyond 20, tanh is 1 to the last bit, and some drivers' formulas overflow.
        value = tanh(clamp(input[id.x] + recurrent[id.x], -20.0, 20.0));
    }
    output[id.x] = value;
}
