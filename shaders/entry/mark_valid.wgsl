// Marks which elements are valid, a bit each, a word an invocation, from the bits of their positions.

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
    let begin = 32u * word;
    if word >= (params.elements + 31u) / 32u {
        return;
    }
    let count = min(32u, params.elements - begin);
    var inner = begin % params.inner;
    var channel = (begin / params.inner) % params.parameter_channels;
    // The first position of the outer step.
    var row = (begin / params.outer_elements) * params.inner;
    var bits = 0u;
    for (var bit = 0u; bit < count;) {
        var length = 0u;
        if params.inner == 1u {
            // The same position in every channel.
            length = min(params.parameter_channels - channel, count - bit);
            bits |= select(0u, ones(length), positions_from(row, 1u) != 0u) << bit;
            channel += length;
        } else {
            // Elements of one row are positions one after the other.
            length = min(params.inner - inner, count - bit);
            bits |= positions_from(row + inner, length) << bit;
            inner += length;
            if inner == params.inner {
                inner = 0u;
                channel += 1u;
            }
        }
        if channel == params.parameter_channels {
            channel = 0u;
            row += params.inner;
        }
        bit += length;
    }
    valid[params.valid_bits + word] = bits;
}

/// The bits of 1 to 32 positions, one after the other.
fn positions_from(first: u32, length: u32) -> u32 {
    let at = params.position_bits + first / 32u;
    let shift = first % 32u;
    // The second word need not exist where the first has all that is asked for.
    let beyond = shift + length > 32u;
    let next = select(0u, valid[at + select(0u, 1u, beyond)], beyond);
    return ((valid[at] >> shift) | select(0u, next << ((32u - shift) % 32u), beyond)) & ones(length);
}

fn ones(length: u32) -> u32 {
    return 0xffffffffu >> (32u - length);
}
