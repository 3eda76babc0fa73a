// What is read of the tensors per unit: the input and its companion.

struct Unit {
    x: vec4<f32>,
    companion: vec4<f32>,
}

fn load_unit(unit: u32) -> Unit {
    return Unit(load_input(unit), companion_at(unit));
}

/// Eight loads in flight.
fn load_block(units: vec4<u32>) -> Block {
    let companion_a = companion_at(units.x);
    let companion_b = companion_at(units.y);
    let companion_c = companion_at(units.z);
    let companion_d = companion_at(units.w);
    let a = load_input(units.x);
    let b = load_input(units.y);
    let c = load_input(units.z);
    let d = load_input(units.w);
    return Block(Unit(a, companion_a), Unit(b, companion_b), Unit(c, companion_c), Unit(d, companion_d));
}
