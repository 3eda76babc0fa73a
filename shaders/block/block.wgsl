// What is read of the tensors per trip: four units.

struct Block {
    a: Unit,
    b: Unit,
    c: Unit,
    d: Unit,
}

/// All loads in flight at once, tensor by tensor of one unit: processors fetch ahead along all tensors where they are read in turn.
fn load_block(units: vec4<u32>) -> Block {
    let a = load_unit(units.x);
    let b = load_unit(units.y);
    let c = load_unit(units.z);
    let d = load_unit(units.w);
    return Block(a, b, c, d);
}
