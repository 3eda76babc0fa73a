// output = f(input), one invocation per value.

// 0: sigmoid, 1: tanh, 2: ReLU.
override kind: u32 = 0u;

@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&output) {
        return;
    }
    let x = input[id.x];
    if kind == 0u {
        // Beyond −80, exp would overflow to infinity, which WGSL does not promise to handle.
        output[id.x] = 1.0 / (1.0 + exp(-max(x, -80.0)));
    } else if kind == 1u {
        // Beyond 20, tanh is 1 to the last bit, and some drivers' formulas overflow.
        output[id.x] = tanh(clamp(x, -20.0, 20.0));
    } else {
        output[id.x] = max(x, 0.0);
    }
}
