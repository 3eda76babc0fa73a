// Reduces rows: channels first with an inner size that fills units.

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
    let split = group / params.tiles;
    let lane = invocation / params.positions;
    let position = invocation % params.positions;
    let channel = (group % params.tiles) * params.lanes + lane;
    let participates = lane < params.lanes && channel < params.channels;
    let safe_channel = min(channel, params.channels - 1u);

    let start = split * params.split_extent;
    let end = min(start + params.split_extent, params.extent);
    let length = end - start;
    let empty = begin(
        vec4<u32>(safe_channel),
        sample(start + length / 4u, safe_channel),
        sample(start + length / 2u, safe_channel),
        sample(start + 3u * (length / 4u) + 3u * (length % 4u) / 4u, safe_channel),
    );

    // Long runs of additions into one f32 drift, so every few blocks go to a second level.
    var total = empty;
    var state = empty;
    var index = start + position;
    var cursor = row_cursor(index);
    for (var block = 0u; block < params.blocks; block++) {
        let a = cursor;
        let b = advance(a);
        let c = advance(b);
        let d = advance(c);
        cursor = advance(d);
        if has(ALIGNED_ROWS) && participates && index + 3u * params.positions < end {
            state = accumulate(state, vec4<u32>(
                row_unit(a, channel),
                row_unit(b, channel),
                row_unit(c, channel),
                row_unit(d, channel),
            ));
        } else if participates && index < end {
            let valid = (vec4<u32>(index) + params.positions * vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(end);
            let units = vec4<u32>(
                row_unit(a, channel),
                row_unit(b, channel),
                row_unit(c, channel),
                row_unit(d, channel),
            );
            state = accumulate_masked(
                state,
                // Units past the end, or past the tensor under a row that needs fewer, are masked; unit 0 always exists.
                select(vec4<u32>(), units, valid & (units < vec4<u32>(params.units))),
                row_mask(a, channel) & vec4<bool>(valid.x),
                row_mask(b, channel) & vec4<bool>(valid.y),
                row_mask(c, channel) & vec4<bool>(valid.z),
                row_mask(d, channel) & vec4<bool>(valid.w),
            );
        }
        index += 4u * params.positions;
        if block % BLOCKS_PER_LEVEL == BLOCKS_PER_LEVEL - 1u {
            total = merge(total, state);
            state = empty;
        }
    }

    let merged = merge_positions(merge(total, state), lane, position, participates);
    if participates && position == 0u {
        write_partial(split, channel, merge_components(merged), 0u);
    }
}

/// An element of the channel, in all components; the one at the start of a unit, or the row's last.
fn sample(index: u32, channel: u32) -> vec4<f32> {
    let cursor = row_cursor(index);
    let element = row_start(cursor, channel) + min(cursor.unit * 4u, params.inner - 1u);
    let values = load_input(element / 4u);
    return vec4<f32>(values[element % 4u]);
}
