// Reduces what a place walks over, trip by trip.

/// Trips that one accumulator takes before it is merged into the next level: long runs of additions into one f32 drift.
const TRIPS_PER_LEVEL: u32 = 32u;

/// Must be called in uniform control flow.
fn reduce_place(place: Place, extent: Extent) -> Accumulator {
    let basis = basis_of(place, extent);
    let whole = whole_trips(extent);
    var total = empty(basis);
    var walker = walk(place, extent);
    // Software drivers execute both sides of a branch, so what needs no mask has a loop of its own. Places that do not
    // participate go along with another's units; nobody asks for what they find.
    for (var level = 0u; level < whole; level += TRIPS_PER_LEVEL) {
        var state = empty(basis);
        let end = min(level + TRIPS_PER_LEVEL, whole);
        for (var trip = level; trip < end; trip++) {
            state = accumulate(basis, state, load_block(take_units(&walker)), f32(trip - level));
            keep_in_step(trip);
        }
        total = merge(total, state);
    }
    for (var level = whole; level < params.blocks; level += TRIPS_PER_LEVEL) {
        var state = empty(basis);
        let end = min(level + TRIPS_PER_LEVEL, params.blocks);
        for (var trip = level; trip < end; trip++) {
            let taken = take_trip(&walker, place, extent);
            state = accumulate_masked(basis, state, load_block(taken.units), taken);
            keep_in_step(trip);
        }
        total = merge(total, state);
    }
    return merge_positions(total, place, params.positions, params.merge_groups);
}
