// The slots of a place with one channel, four at once: a slot a component.

fn slot_groups() -> u32 {
    return (params.slots + 3u) / 4u;
}

/// Components past the last slot are empty.
fn slots_at(group: u32, channels: vec4<u32>) -> Accumulator {
    let slot = 4u * group;
    let first = partial_at(channels.x, 0u);
    return from_records(
        slot_record(first, slot),
        slot_record(first, slot + 1u),
        slot_record(first, slot + 2u),
        slot_record(first, slot + 3u),
    );
}

fn slot_record(first: u32, slot: u32) -> Record {
    return select(Record(), partials[first + min(slot, params.slots - 1u)], slot < params.slots);
}

fn combine(value: Accumulator) -> Accumulator {
    return merge_components(value);
}
