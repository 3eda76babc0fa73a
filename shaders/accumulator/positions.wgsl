// Merges the accumulators of the positions of a lane; depends on `merge`, `emptied`, `store_shared`, `load_shared` and
// `from_records`. `merge_positions` and `share` must be called in uniform control flow.

/// Accumulators that are merged in a chain before they are merged with others: every addition of a chain may take a
/// roundoff from a channel whose sum is one outlier's.
const POSITIONS_PER_CHAIN: u32 = 4u;

/// Afterwards position 0 of each lane holds the merge of its lane's first `positions` accumulators. Two barriers instead
/// of a tree: first `groups` positions merge every `groups`-th accumulator, then position 0 merges theirs.
fn merge_positions(own: Accumulator, place: Place, positions: u32, groups: u32) -> Accumulator {
    if positions == 1u {
        return own;
    }
    var merged = own;
    if place.participates && place.position < positions {
        store_shared(place.position * params.lanes + place.lane, own);
    }
    workgroupBarrier();
    if place.participates && place.position < groups {
        merged = merge_every(own, place.position, positions, groups, place.lane);
        store_shared(place.position * params.lanes + place.lane, merged);
    }
    workgroupBarrier();
    if place.participates && place.position == 0u {
        merged = merge_every(own, 0u, groups, 1u, place.lane);
    }
    return merged;
}

/// What the positions `begin`, `begin + step`, ... below `end` stored, in chains of `POSITIONS_PER_CHAIN` and one chain of these.
fn merge_every(like: Accumulator, begin: u32, end: u32, step: u32, lane: u32) -> Accumulator {
    var total = emptied(like);
    for (var first = begin; first < end; first += POSITIONS_PER_CHAIN * step) {
        var chain = emptied(like);
        for (var position = first; position < min(first + POSITIONS_PER_CHAIN * step, end); position += step) {
            chain = merge(chain, load_shared(position * params.lanes + lane));
        }
        total = merge(total, chain);
    }
    return total;
}

/// Gives what position 0 of a lane holds to all its positions.
fn share(own: Accumulator, place: Place) -> Accumulator {
    if params.positions == 1u {
        return own;
    }
    workgroupBarrier();
    if place.participates && place.position == 0u {
        store_shared(place.lane, own);
    }
    workgroupBarrier();
    var shared_value = own;
    if place.participates {
        shared_value = load_shared(place.lane);
    }
    workgroupBarrier();
    return shared_value;
}

/// One set in all components.
fn splat(record: Record) -> Accumulator {
    return from_records(record, record, record, record);
}
