// The second dispatch of a split: every workgroup merges the partials of its channels and maps its part of the tensor, by spans
// of lanes. The first of a channel also writes what follows from the merge.

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
    // The reduction has just read the tensor's end: what of it is still in a cache is taken first.
    let reversed = params.groups - 1u - group;
    let place = locate(reversed, invocation);
    let extent = extent_of(reversed);
    var coefficients: array<Coefficients, MOST_LANES_PER_SPAN>;
    for (var step = 0u; step < SPAN; step++) {
        let own = beside(place, step);
        let merged = merge_slots(own);
        if extent.split == 0u {
            commit(merged, own);
        }
        coefficients[step] = conclude(merged, own);
    }
    apply_to_span(place, extent, &coefficients);
}
