// Counts the valid elements of every segment, and finds some of them to sample.

@group(0) @binding(22)
var<storage, read_write> valid: array<atomic<u32>>;

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
    let segment = group % params.segments;
    let start = (group / params.segments) * params.split_extent;
    let end = min(start + params.split_extent, params.extent);
    // Every channel of a segment has the same positions.
    let begin = first_element(channel_at(segment, 0u));
    var count = 0u;
    var first = 0xffffffffu;
    var last = 0u;
    var middle = 0xffffffffu;
    for (var position = start + invocation; position < end; position += WORKGROUP_SIZE) {
        let element = begin + (position / params.inner) * params.outer_elements + position % params.inner;
        let word = atomicLoad(&valid[params.valid_bits + element / 32u]);
        if ((word >> (element % 32u)) & 1u) != 0u {
            count += 1u;
            first = min(first, position);
            last = max(last, position);
            if position >= params.extent / 2u {
                middle = min(middle, position);
            }
        }
    }
    if count != 0u {
        // Of integers, so that the order does not matter.
        let record = 4u * (params.valid_base + segment);
        atomicAdd(&valid[record], count);
        atomicMin(&valid[record + 1u], first);
        atomicMax(&valid[record + 2u], last);
        atomicMin(&valid[record + 3u], middle);
    }
}
