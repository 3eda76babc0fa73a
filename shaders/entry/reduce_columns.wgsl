// Reduces columns to a partial a run and split.

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = linear_group(workgroup, workgroups);
    if group >= params.groups {
        return;
    }
    let place = locate(group, invocation);
    let extent = extent_of(group);
    let merged = reduce_place(place, extent);
    if group == 0u && invocation == 0u {
        count_batch();
    }
    let tile_column = 4u * place.tile_unit;
    // A lone super-row may be cut off.
    let existing = params.elements - params.window_base;
    if params.inner == 1u {
        if place.participates && place.position == 0u {
            for (var component = 0u; component < 4u; component++) {
                let column = 4u * place.column_unit + component;
                if column < existing {
                    write_run(place, extent.split, column, record_of(merged, component));
                }
            }
        }
        return;
    }
    // A run's columns lie in several lanes, and all of them in this tile.
    workgroupBarrier();
    if place.participates && place.position == 0u {
        store_shared(place.lane, merged);
    }
    workgroupBarrier();
    let columns = min(4u * min(params.lanes, params.row_units - place.tile_unit), existing - tile_column);
    for (var column = invocation * params.inner; column < columns; column += WORKGROUP_SIZE * params.inner) {
        let run = merge_run(column, column + params.inner, columns);
        write_run(place, extent.split, (tile_column + column) / params.inner, record_of(run, 0u));
    }
}

/// A channel that stands several times in a super-row has a slot for each.
fn write_run(place: Place, split: u32, run: u32, value: Record) {
    let slot = split * params.repeats + run / params.part_channels;
    let channel = first_channel(place) + run % params.part_channels;
    partials[partial_at(channel, params.slot_base + slot)] = value;
    if slot == 0u {
        record_parameters(channel);
    }
}
