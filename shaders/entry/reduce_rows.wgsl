// Reduces rows to a partial a channel and split.

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
    if owns_channel(place, 0u) {
        partials[partial_at(place.channel, params.slot_base + extent.split)] = record_of(merge_components(merged), 0u);
        if extent.split == 0u {
            record_parameters(place.channel);
        }
    }
    if group == 0u && invocation == 0u {
        count_batch();
    }
}
