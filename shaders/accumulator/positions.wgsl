// Merges the accumulators of the positions of a lane; depends on `merge`, `store_shared` and `load_shared`.
// Both functions must be called in uniform control flow.

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
        for (var other = place.position + groups; other < positions; other += groups) {
            merged = merge(merged, load_shared(other * params.lanes + place.lane));
        }
        store_shared(place.position * params.lanes + place.lane, merged);
    }
    workgroupBarrier();
    if place.participates && place.position == 0u {
        for (var other = 1u; other < groups; other++) {
            merged = merge(merged, load_shared(other * params.lanes + place.lane));
        }
    }
    return merged;
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
