// A block that is held as it was read.

fn kept(basis: Basis, block: Block, trip: Trip) -> Block {
    return block;
}
