// What is read of the tensors per unit: the output gradient, the input and its companion.

struct Unit {
    g: vec4<f32>,
    x: vec4<f32>,
    companion: vec4<f32>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_output_gradient(unit), load_input(unit), companion_at(unit));
}
