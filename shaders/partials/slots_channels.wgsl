// The slots of a place with a channel a component: one slot of each at once.

fn slot_groups() -> u32 {
    return params.slots;
}

fn slots_at(slot: u32, channels: vec4<u32>) -> Accumulator {
    let at = vec4<u32>(params.partials_base) + channels * params.slots + slot;
    return from_records(partials[at.x], partials[at.y], partials[at.z], partials[at.w]);
}

fn combine(value: Accumulator) -> Accumulator {
    return value;
}
