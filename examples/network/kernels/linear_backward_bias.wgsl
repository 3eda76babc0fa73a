// bias_gradient[o] = Σₙ output_gradient[n, o]
//
// One invocation per output. Only layers without batch norm have a bias.

// Whether the gradient is added to what is there.
override accumulate: bool = false;

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> bias_gradient: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= shape.outputs {
        return;
    }
    var sum = 0.0;
    for (var n = 0u; n < shape.rows; n++) {
        sum += output_gradient[n * shape.outputs + id.x];
    }
    if accumulate {
        sum += bias_gradient[id.x];
    }
    bias_gradient[id.x] = sum;
}
