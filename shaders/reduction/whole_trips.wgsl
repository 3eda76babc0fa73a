// The trips of a reduction that take no mask.

/// Must be called in uniform control flow.
fn reduce_whole_trips(basis: Basis, walker: ptr<function, Walker>, whole: u32, per_level: u32) -> Accumulator {
    var total = empty(basis);
    if whole > 0u {
        var level = 0u;
        loop {
            var state = empty(basis);
            let end = min(level + per_level, whole);
            var trip = level;
            loop {
                state = accumulate(basis, state, load_block(take_units(walker)), f32(trip - level));
                keep_in_step(trip);
                trip++;
                continuing {
                    break if trip >= end;
                }
            }
            total = merge(total, state);
            level += per_level;
            continuing {
                break if level >= whole;
            }
        }
    }
    return total;
}
