// output = 1 / (1 + exp(−input)), one invocation per vec4.

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&output) {
        // Beyond −80, exp would overflow to infinity, which WGSL does not promise to handle.
        output[id.x] = 1.0 / (1.0 + exp(-max(input[id.x], vec4(-80.0))));
    }
}
