// The output gradient tensor where the input gradient takes its place: one binding, read before it is written.

fn load_output_gradient(unit: u32) -> vec4<f32> {
    return unpacked(input_gradient[unit]);
}
