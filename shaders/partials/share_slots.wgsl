// How the positions of a lane share the merge of its slots.

/// Groups of slots that are merged one after the other before they are merged with others: long chains of additions lose digits.
const GROUPS_PER_LEVEL: u32 = 8u;

/// The first group of slots that a place takes; none of them if it takes no part.
fn first_slot_group(place: Place) -> u32 {
    if params.slot_positions == 1u {
        return 0u;
    }
    return select(slot_groups(), place.position, place.position < params.slot_positions);
}

/// The merge of what the positions found, for all of them. Must be called in uniform control flow.
fn settle(own: Accumulator, place: Place) -> Accumulator {
    if params.slot_positions == 1u {
        return combine(own);
    }
    return share(combine(merge_positions(own, place, params.slot_positions, params.slot_merge_groups)), place);
}
