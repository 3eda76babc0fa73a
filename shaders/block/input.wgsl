// What is read of the tensors per unit: the input.

struct Unit {
    x: vec4<f32>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_input(unit));
}

/// Four loads in flight.
fn load_block(units: vec4<u32>) -> Block {
    let a = load_input(units.x);
    let b = load_input(units.y);
    let c = load_input(units.z);
    let d = load_input(units.w);
    return Block(Unit(a), Unit(b), Unit(c), Unit(d));
}
