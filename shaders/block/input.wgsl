// What is read of the tensors per unit: the input.

struct Unit {
    x: vec4<f32>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_input(unit));
}
