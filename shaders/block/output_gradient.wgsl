// What is read of the tensors per unit: the output gradient.

struct Unit {
    g: vec4<f32>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_output_gradient(unit));
}

/// Four loads in flight.
fn load_block(units: vec4<u32>) -> Block {
    let a = load_output_gradient(units.x);
    let b = load_output_gradient(units.y);
    let c = load_output_gradient(units.z);
    let d = load_output_gradient(units.w);
    return Block(Unit(a), Unit(b), Unit(c), Unit(d));
}
