// Packs which positions are valid, a bit each, a word an invocation; and clears the segments' records.

/// Valid positions as flags, 0 for padding; or the lengths of sequences.
@group(0) @binding(23)
var<storage, read> valid_source: array<u32>;
@group(0) @binding(22)
var<storage, read_write> valid: array<u32>;

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
    let word = group * WORKGROUP_SIZE + invocation;
    if word < params.valid_bits {
        // No element yet: the first ones lie past everything, the last one before.
        valid[word] = select(0u, 0xffffffffu, word % 2u == 1u);
    }
    let begin = 32u * word;
    var bits = 0u;
    for (var position = begin; position < min(begin + 32u, params.extent); position++) {
        bits |= select(0u, 1u, is_valid(position)) << (position - begin);
    }
    if begin < params.extent {
        valid[params.position_bits + word] = bits;
    }
}

/// Whether a position, in the order of one channel's elements, is valid.
fn is_valid(position: u32) -> bool {
    if has(FROM_LENGTHS) {
        let sequence = (position / params.sequence_stride) % params.sequence_length;
        let step = (position / params.step_stride) % params.step_length;
        let length = valid_source[sequence];
        // Not a sum, which could wrap around.
        return step < length - min(length, params.first_step);
    }
    return valid_source[position] != 0u;
}
