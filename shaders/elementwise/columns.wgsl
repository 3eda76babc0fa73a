// Applies a function to columns: a lane's four components keep their channels from super-row to super-row.

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
    let column_unit = (group % params.tiles) * params.lanes + invocation % params.lanes;
    let position = invocation / params.lanes;
    if position >= params.positions || column_unit >= params.row_units {
        return;
    }
    let coefficients = coefficients_at(column_channels(column_unit));
    let start = split * params.split_extent;
    let end = min(start + params.split_extent, params.extent);
    var row = start + position;
    for (var block = 0u; block < params.blocks; block++) {
        let rows = vec4<u32>(row) + params.positions * vec4<u32>(0u, 1u, 2u, 3u);
        let units = rows * params.row_units + column_unit;
        if rows.w < end && units.w < params.units {
            apply_units(coefficients, units);
        } else {
            if rows.x < end && units.x < params.units {
                apply_unit(coefficients, units.x);
            }
            if rows.y < end && units.y < params.units {
                apply_unit(coefficients, units.y);
            }
            if rows.z < end && units.z < params.units {
                apply_unit(coefficients, units.z);
            }
        }
        row += 4u * params.positions;
    }
}
