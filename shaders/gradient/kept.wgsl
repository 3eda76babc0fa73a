// h and x̂ in the place of the output gradient and the input, for kernels that hold a block from its reduction to its map.

fn kept(basis: Basis, block: Block) -> Block {
    return Block(
        kept_unit(basis, block.a),
        kept_unit(basis, block.b),
        kept_unit(basis, block.c),
        kept_unit(basis, block.d),
    );
}

fn gradient_of(basis: Basis, values: Unit) -> vec4<f32> {
    return values.g;
}

fn normalized_input(basis: Basis, values: Unit) -> vec4<f32> {
    return values.x;
}
