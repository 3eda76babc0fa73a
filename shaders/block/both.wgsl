// What is read of the tensors per unit: the output gradient and the input.

struct Unit {
    g: vec4<f32>,
    x: vec4<f32>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_output_gradient(unit), load_input(unit));
}

/// Eight loads in flight.
fn load_block(units: vec4<u32>) -> Block {
    let gradient_a = load_output_gradient(units.x);
    let gradient_b = load_output_gradient(units.y);
    let gradient_c = load_output_gradient(units.z);
    let gradient_d = load_output_gradient(units.w);
    let a = load_input(units.x);
    let b = load_input(units.y);
    let c = load_input(units.z);
    let d = load_input(units.w);
    return Block(Unit(gradient_a, a), Unit(gradient_b, b), Unit(gradient_c, c), Unit(gradient_d, d));
}
