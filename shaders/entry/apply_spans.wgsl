// Maps a tensor to a tensor with statistics that are known, by spans of lanes.

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
    var coefficients: array<Coefficients, MOST_LANES_PER_SPAN>;
    for (var step = 0u; step < SPAN; step++) {
        coefficients[step] = coefficients_of(beside(place, step));
    }
    apply_to_span(place, extent, &coefficients);
}
