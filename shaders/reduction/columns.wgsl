// Reduces columns: channels last, (N,C), and channels first with an inner size too small to fill units.

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
    let tile_unit = (group % params.tiles) * params.lanes;
    let lane = invocation % params.lanes;
    let position = invocation / params.lanes;
    let participates = position < params.positions && tile_unit + lane < params.row_units;
    let column_unit = min(tile_unit + lane, params.row_units - 1u);

    let start = split * params.split_extent;
    let end = min(start + params.split_extent, params.extent);
    // The last super-row may be cut off; then the sample is taken a row above, by all lanes, which may share a segment.
    let cut_off = 4u * end * params.row_units > params.elements;
    let length = end - start;
    let last = select(end - 1u, max(start, end - min(end, 2u)), cut_off);
    let empty = begin(
        column_channels(column_unit),
        sample(min(start + length / 4u, last), column_unit, params.inner / 4u),
        sample(min(start + length / 2u, last), column_unit, params.inner / 2u),
        sample(min(start + 3u * (length / 4u) + 3u * (length % 4u) / 4u, last), column_unit, 3u * params.inner / 4u),
    );

    // Long runs of additions into one f32 drift, so every few blocks go to a second level.
    var total = empty;
    var state = empty;
    var row = start + position;
    for (var block = 0u; block < params.blocks; block++) {
        let rows = vec4<u32>(row) + params.positions * vec4<u32>(0u, 1u, 2u, 3u);
        let units = rows * params.row_units + column_unit;
        if participates && rows.w < end && 4u * units.w + 3u < params.elements {
            state = accumulate(state, units);
        } else if participates && row < end {
            let valid = rows < vec4<u32>(end);
            state = accumulate_masked(
                state,
                // Units past the end are masked; unit 0 always exists.
                select(vec4<u32>(), units, valid & (units < vec4<u32>(params.units))),
                unit_mask(units.x, valid.x),
                unit_mask(units.y, valid.y),
                unit_mask(units.z, valid.z),
                unit_mask(units.w, valid.w),
            );
        }
        row += 4u * params.positions;
        if block % BLOCKS_PER_LEVEL == BLOCKS_PER_LEVEL - 1u {
            total = merge(total, state);
            state = empty;
        }
    }

    let merged = merge_positions(merge(total, state), lane, position, participates);
    let tile_column = 4u * tile_unit;
    if params.inner == 1u {
        if participates && position == 0u {
            for (var component = 0u; component < 4u; component++) {
                let column = tile_column + 4u * lane + component;
                if column < params.elements {
                    write_segment(split, column, merged, component);
                }
            }
        }
        return;
    }
    // A segment's columns lie in several lanes, and all of them in this tile.
    if participates && position == 0u {
        store_shared(lane, merged);
    }
    workgroupBarrier();
    let columns = min(4u * min(params.lanes, params.row_units - tile_unit), params.elements - tile_column);
    for (var column = invocation * params.inner; column < columns; column += WORKGROUP_SIZE * params.inner) {
        var segment = component_of(load_shared(column / 4u), column % 4u);
        for (var other = column + 1u; other < column + params.inner; other++) {
            segment = merge(segment, component_of(load_shared(other / 4u), other % 4u));
        }
        write_segment(split, (tile_column + column) / params.inner, segment, 0u);
    }
}

/// A channel that stands several times in a super-row has a slot for each.
fn write_segment(split: u32, segment: u32, value: Accumulator, component: u32) {
    write_partial(split * params.repeats + segment / params.channels, segment % params.channels, value, component);
}

/// Element `within` of each component's segment: the same for all columns of a segment, so that they share a pivot.
fn sample(row: u32, column_unit: u32, within: u32) -> vec4<f32> {
    if params.inner == 1u {
        return load_input(min(row * params.row_units + column_unit, params.units - 1u));
    }
    let columns = vec4<u32>(4u * column_unit) + vec4<u32>(0u, 1u, 2u, 3u);
    let elements = min(
        vec4<u32>(4u * row * params.row_units + within) + (columns / params.inner) * params.inner,
        vec4<u32>(params.elements - 1u),
    );
    return vec4<f32>(
        load_input(elements.x / 4u)[elements.x % 4u],
        load_input(elements.y / 4u)[elements.y % 4u],
        load_input(elements.z / 4u)[elements.z % 4u],
        load_input(elements.w / 4u)[elements.w % 4u],
    );
}

/// Which components of a unit exist.
fn unit_mask(unit: u32, valid: bool) -> vec4<bool> {
    let elements = vec4<u32>(4u * unit) + vec4<u32>(0u, 1u, 2u, 3u);
    return (elements < vec4<u32>(params.elements)) & vec4<bool>(valid);
}
