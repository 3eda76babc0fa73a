// Applies a function to rows: a lane has one channel. The first and the last unit of an unaligned row belong to
// neighbours too, so of them only the row's own components are stored.

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
    let channel = (group % params.tiles) * params.lanes + lane;
    if lane >= params.lanes || channel >= params.channels {
        return;
    }
    let coefficients = coefficients_at(vec4<u32>(channel));
    let start = split * params.split_extent;
    let end = min(start + params.split_extent, params.extent);
    var index = start + invocation % params.positions;
    var cursor = row_cursor(index);
    for (var block = 0u; block < params.blocks; block++) {
        let a = cursor;
        let b = advance(a);
        let c = advance(b);
        let d = advance(c);
        cursor = advance(d);
        if index + 3u * params.positions < end && are_whole(a, b, c, d, channel) {
            apply_units(coefficients, vec4<u32>(
                row_unit(a, channel),
                row_unit(b, channel),
                row_unit(c, channel),
                row_unit(d, channel),
            ));
        } else {
            if index < end {
                apply_row_unit(coefficients, a, channel);
            }
            if index + params.positions < end {
                apply_row_unit(coefficients, b, channel);
            }
            if index + 2u * params.positions < end {
                apply_row_unit(coefficients, c, channel);
            }
            if index + 3u * params.positions < end {
                apply_row_unit(coefficients, d, channel);
            }
        }
        index += 4u * params.positions;
    }
}

/// Whether all elements of four units belong to their rows.
fn are_whole(a: RowCursor, b: RowCursor, c: RowCursor, d: RowCursor, channel: u32) -> bool {
    return has(ALIGNED_ROWS)
        || all(row_mask(a, channel) & row_mask(b, channel) & row_mask(c, channel) & row_mask(d, channel));
}

fn apply_row_unit(coefficients: Coefficients, cursor: RowCursor, channel: u32) {
    let mask = row_mask(cursor, channel);
    if all(mask) {
        apply_unit(coefficients, row_unit(cursor, channel));
    } else if any(mask) {
        apply_unit_masked(coefficients, row_unit(cursor, channel), mask);
    }
}
