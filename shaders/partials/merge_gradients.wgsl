// Adds up the partial gradient sums of a place's channels.

fn merge_slots(place: Place) -> Accumulator {
    let channels = channels_of(place);
    var state = Accumulator(vec4<f32>(), vec4<f32>());
    for (var group = first_slot_group(place); group < slot_groups(); group += params.slot_positions) {
        state = merge(state, slots_at(group, channels));
    }
    return settle(state, place);
}
