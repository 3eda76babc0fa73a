// The input tensor where the output takes its place: one binding, read before it is written.

fn load_input(unit: u32) -> vec4<f32> {
    return output[unit];
}
