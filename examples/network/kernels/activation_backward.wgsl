// input_gradient = output_gradient · f'(input), with f' from the output; one invocation per value.

// 0: sigmoid, 1: tanh, 2: ReLU.
override kind: u32 = 0u;
// Whether the gradient is added to what is there.
override accumulate: bool = false;

@group(0) @binding(0) var<storage, read> output: array<f32>;
@group(0) @binding(1) var<storage, read> output_gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> input_gradient: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&input_gradient) {
        return;
    }
    let y = output[id.x];
    var derivative = select(0.0, 1.0, y > 0.0);
    if kind == 0u {
        derivative = y * (1.0 - y);
    } else if kind == 1u {
        derivative = 1.0 - y * y;
    }
    var gradient = output_gradient[id.x] * derivative;
    if accumulate {
        gradient += input_gradient[id.x];
    }
    input_gradient[id.x] = gradient;
}
