// Reduces quads to a partial a channel and split.

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
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = place.channel + component;
            partials[partial_at(channel, params.slot_base + extent.split)] = record_of(merged, component);
            if extent.split == 0u {
                record_parameters(channel);
            }
        }
    }
    if group == 0u && invocation == 0u {
        count_batch();
    }
}
