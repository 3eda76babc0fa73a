// Reduces what a place walks over, trip by trip.

/// Trips that one accumulator takes at least before it is merged into the next level: long runs of additions into one f32 drift,
/// by as many roundings as there are additions where all add the same.
const TRIPS_PER_LEVEL: u32 = 16u;

/// About the square root of all trips where there are more than the square of that, so that neither level has a long run.
fn trips_per_level() -> u32 {
    return max(TRIPS_PER_LEVEL, 1u << ((firstLeadingBit(params.blocks | 1u) + 1u) / 2u));
}

/// Must be called in uniform control flow.
fn reduce_place(place: Place, extent: Extent) -> Accumulator {
    let basis = basis_of(place, extent);
    let whole = whole_trips(extent);
    let per_level = trips_per_level();
    var walker = walk(place, extent);
    // Software drivers execute both sides of a branch, so what needs no mask has a loop of its own, and the body of a loop
    // once more without effect where the condition stands before it. Places that do not participate go along with another's
    // units; nobody asks for what they find.
    var total = reduce_whole_trips(basis, &walker, whole, per_level);
    if params.blocks > whole {
        var level = whole;
        loop {
            var state = empty(basis);
            let end = min(level + per_level, params.blocks);
            var trip = level;
            loop {
                let taken = take_trip(&walker, place, extent);
                state = accumulate_masked(basis, state, load_block(taken.units), taken);
                keep_in_step(trip);
                trip++;
                continuing {
                    break if trip >= end;
                }
            }
            total = merge(total, state);
            level += per_level;
            continuing {
                break if level >= params.blocks;
            }
        }
    }
    return merge_positions(total, place, params.positions, params.merge_groups);
}
