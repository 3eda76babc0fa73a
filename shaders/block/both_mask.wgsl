// What is read of the tensors per unit: the output gradient, the input and the activation mask.

struct Unit {
    g: vec4<f32>,
    x: vec4<f32>,
    positive: vec4<bool>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_output_gradient(unit), load_input(unit), load_signs(unit));
}
