// Merges the partial statistics of a place's channels.

fn merge_slots(place: Place) -> Accumulator {
    let channels = channels_of(place);
    // Near the data, so that most sums are small relative to it.
    let first_pivot = pivot_of_first(channels);
    var state = Accumulator(first_pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
    let step = GROUPS_PER_LEVEL * params.slot_positions;
    for (var level = first_slot_group(place); level < slot_groups(); level += step) {
        var own = emptied(state);
        for (var group = level; group < min(level + step, slot_groups()); group += params.slot_positions) {
            own = merge(own, moved(slots_at(group, channels), first_pivot));
        }
        state = merge(state, own);
    }
    let merged = settle(state, place);
    if params.slots == 1u {
        return merged;
    }
    // A slot's pivot may be an outlier, the first one too; relative to the mean found so far all sums are small.
    let pivot = first_pivot + mean_of(merged.sum, channels);
    var centred = Accumulator(pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
    for (var level = first_slot_group(place); level < slot_groups(); level += step) {
        var sum = vec4<f32>();
        for (var group = level; group < min(level + step, slot_groups()); group += params.slot_positions) {
            let slots = moved(slots_at(group, channels), pivot);
            centred.count += slots.count;
            sum += slots.sum;
        }
        centred.sum += sum;
    }
    let sums = settle(centred, place);
    return Accumulator(pivot, merged.count, sums.sum, merged.m2);
}

/// The same statistics relative to another pivot. The pivot of an empty slot means nothing and may be anything.
fn moved(value: Accumulator, pivot: vec4<f32>) -> Accumulator {
    let shift = select(vec4<f32>(), value.pivot - pivot, value.count > vec4<f32>());
    return Accumulator(pivot, value.count, value.sum + value.count * shift, value.m2);
}
