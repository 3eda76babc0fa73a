// Does something with every channel that needs no tensor.

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
    let channels = channels_of(place);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            visit_channel(channels[component]);
        }
    }
}
