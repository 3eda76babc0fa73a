// One dispatch: every workgroup has its channels to itself, reduces them by spans of lanes, and reads them again to map them.

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
    var totals = reduce_span(place, extent);
    if group == 0u && invocation == 0u {
        count_batch();
    }
    var coefficients: array<Coefficients, MOST_LANES_PER_SPAN>;
    for (var step = 0u; step < SPAN; step++) {
        let own = beside(place, step);
        commit(totals[step], own);
        coefficients[step] = conclude(totals[step], own);
    }
    apply_to_span(place, extent, &coefficients);
}
