// Reduces spans of columns to a partial a channel and split.

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
    if group == 0u && invocation == 0u {
        count_batch();
    }
    var totals = reduce_span(place, extent);
    for (var step = 0u; step < SPAN; step++) {
        let own = beside(place, step);
        for (var component = 0u; component < 4u; component++) {
            let channel = first_channel(own) + 4u * own.column_unit + component;
            if own.participates {
                partials[partial_at(channel, params.slot_base + extent.split)] = record_of(totals[step], component);
                if extent.split == 0u {
                    record_parameters(channel);
                }
            }
        }
    }
}
