// A block that is held, of units whose components are of one channel each.

fn kept(basis: Basis, block: Block, trip: Trip) -> Block {
    return Block(
        kept_unit(basis, block.a),
        kept_unit(basis, block.b),
        kept_unit(basis, block.c),
        kept_unit(basis, block.d),
    );
}
