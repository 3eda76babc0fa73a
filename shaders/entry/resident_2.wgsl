// One dispatch: every workgroup has its channels to itself and holds them in registers, two trips an invocation.

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
    var walker = walk(place, extent);
    let trip_0 = take_trip(&walker, place, extent);
    let trip_1 = take_trip(&walker, place, extent);
    let block_0 = load_block(trip_0.units);
    let block_1 = load_block(trip_1.units);
    let basis = basis_of(place, extent);
    let held_0 = kept(basis, block_0, trip_0);
    let held_1 = kept(basis, block_1, trip_1);
    var state = empty(basis);
    state = accumulate_masked(basis, state, held_0, trip_0);
    state = accumulate_masked(basis, state, held_1, trip_1);
    let lanes = merge_positions(state, place, params.positions, params.merge_groups);
    let merged = gather_channels(lanes, place);
    commit(merged, place);
    if group == 0u && invocation == 0u {
        count_batch();
    }
    let coefficients = conclude(merged, place);
    apply_to_trip(trip_0, coefficients, held_0);
    apply_to_trip(trip_1, coefficients, held_1);
}
