// A block that is held, of units of one or two channels of a quad.

fn kept(basis: Basis, block: Block, trip: Trip) -> Block {
    return Block(
        kept_unit(picked_basis(basis, owners_of(trip, 0u)), block.a),
        kept_unit(picked_basis(basis, owners_of(trip, 1u)), block.b),
        kept_unit(picked_basis(basis, owners_of(trip, 2u)), block.c),
        kept_unit(picked_basis(basis, owners_of(trip, 3u)), block.d),
    );
}
