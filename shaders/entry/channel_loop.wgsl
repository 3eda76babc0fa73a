// One dispatch: every workgroup has its channels to itself, reduces them, and reads them again to map them.

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
    let merged = gather_channels(reduce_place(place, extent), place);
    commit(merged, place);
    if group == 0u && invocation == 0u {
        count_batch();
    }
    apply_to_place(place, extent, conclude(merged, place));
}
