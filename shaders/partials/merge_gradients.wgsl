// Adds up the partial gradient sums of a place's channels.

fn merge_slots(place: Place) -> Accumulator {
    let channels = channels_of(place);
    var state = Accumulator(vec4<f32>(), vec4<f32>());
    let step = GROUPS_PER_LEVEL * params.slot_positions;
    for (var level = first_slot_group(place); level < slot_groups(); level += step) {
        var own = Accumulator(vec4<f32>(), vec4<f32>());
        for (var group = level; group < min(level + step, slot_groups()); group += params.slot_positions) {
            own = merge(own, slots_at(group, channels));
        }
        state = merge(state, own);
    }
    return settle(state, place);
}
