// Reduces what a place walks over, and merges what its lane's positions found.

/// Must be called in uniform control flow.
fn reduce_place(place: Place, extent: Extent) -> Accumulator {
    let total = reduce_trips(basis_of(place, extent), place, extent);
    return merge_positions(total, place, params.positions, params.merge_groups);
}
