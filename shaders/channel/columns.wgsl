// From the accumulators of a tile's lanes to those of its channels: columns, where a channel is one component of a lane,
// or has `inner` columns in each of `repeats` runs, all of them in this tile.

/// For all positions. Must be called in uniform control flow.
fn gather_channels(merged: Accumulator, place: Place) -> Accumulator {
    if params.inner == 1u && params.repeats == 1u {
        return share(merged, place);
    }
    workgroupBarrier();
    if place.participates && place.position == 0u {
        store_shared(place.lane, merged);
    }
    workgroupBarrier();
    // At most two channels an invocation: a channel has two columns or more.
    let columns = 4u * min(params.lanes, params.row_units - place.tile_unit);
    let channels = min(columns / params.inner, params.part_channels);
    let invocation = place.position * params.lanes + place.lane;
    let first = gather_channel(invocation, channels, place);
    let second = gather_channel(invocation + WORKGROUP_SIZE, channels, place);
    workgroupBarrier();
    store_record(invocation, first);
    store_record(invocation + WORKGROUP_SIZE, second);
    workgroupBarrier();
    let own = channels_in_part(place) - (4u * place.tile_unit / params.inner) % params.part_channels;
    let gathered = from_records(load_record(own.x), load_record(own.y), load_record(own.z), load_record(own.w));
    workgroupBarrier();
    return gathered;
}

fn gather_channel(channel: u32, channels: u32, place: Place) -> Record {
    var state = splat(Record());
    if channel < channels {
        let limit = params.elements - 4u * place.tile_unit;
        let begin = channel * params.inner;
        state = merge_run(begin, begin + params.inner, limit);
        // A lone super-row is cut off where the tensor ends.
        for (var repeat = 1u; repeat < params.repeats; repeat++) {
            let run = begin + repeat * params.outer_elements;
            state = merge(state, merge_run(run, run + params.inner, limit));
        }
    }
    return record_of(state, 0u);
}
