// The moments of a place with a channel a component: one part of each at once, in the place of a slot.

fn slot_groups() -> u32 {
    return params.slots;
}

fn slots_at(part: u32, channels: vec4<u32>) -> Accumulator {
    let at = vec4<u32>(part * params.channels) + channels;
    return from_records(part_record(at.x), part_record(at.y), part_record(at.z), part_record(at.w));
}

/// What the other values of an empty part are means nothing.
fn part_record(at: u32) -> Record {
    let part = moments[at];
    let values = bitcast<vec4<f32>>(part);
    let count = f32(part.x);
    return select(Record(), Record(count, values.y, count * values.z, values.w), part.x != 0u);
}

fn combine(value: Accumulator) -> Accumulator {
    return value;
}
