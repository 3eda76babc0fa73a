// The least that a walk can do over rows that share their end units with neighbours: an invocation has a channel to itself, reads by
// vectors and must write what is its own by elements.

@group(0) @binding(0)
var<storage, read> first: array<vec4<f32>>;
@group(0) @binding(1)
var<storage, read> second: array<vec4<f32>>;
@group(0) @binding(2)
var<storage, read_write> target_: array<f32>;

override WORKGROUP_SIZE: u32;
override CHANNELS: u32;
/// Elements of a row, and rows of a channel.
override INNER: u32;
override OUTER: u32;
override SUMMED: u32;
override MAPPED: u32;
/// Writes what is certainly within the row without a mask.
override MIDDLE_APART: bool;

fn taken(unit: u32, tensors: u32) -> vec4<f32> {
    // The last row may need a unit less.
    let existing = min(unit, arrayLength(&first) - 1u);
    var value = first[existing];
    if tensors == 2u {
        value += second[existing];
    }
    return value;
}

/// Which elements of a unit belong to the row that begins at `begin`.
fn mask_of(unit: u32, begin: u32) -> vec4<bool> {
    return (vec4<u32>(4u * unit - begin) + vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(INNER);
}

fn store_masked(unit: u32, value: vec4<f32>, mask: vec4<bool>) {
    let at = 4u * unit;
    if mask.x {
        target_[at] = value.x;
    }
    if mask.y {
        target_[at + 1u] = value.y;
    }
    if mask.z {
        target_[at + 2u] = value.z;
    }
    if mask.w {
        target_[at + 3u] = value.w;
    }
}

fn store(unit: u32, value: vec4<f32>) {
    let at = 4u * unit;
    target_[at] = value.x;
    target_[at + 1u] = value.y;
    target_[at + 2u] = value.z;
    target_[at + 3u] = value.w;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = workgroup.y * workgroups.x + workgroup.x;
    let channel = group * WORKGROUP_SIZE + invocation;
    if channel >= CHANNELS {
        return;
    }
    let row_units = (INNER + 6u) / 4u;
    // Units 1 to `middle` lie within the row wherever it begins.
    let middle = (INNER - 3u) / 4u;
    var sum = vec4<f32>();
    if SUMMED > 0u {
        for (var row = 0u; row < OUTER; row++) {
            let begin = (row * CHANNELS + channel) * INNER;
            let unit = begin / 4u;
            sum += select(vec4<f32>(), taken(unit, SUMMED), mask_of(unit, begin));
            for (var index = 1u; index <= middle; index++) {
                sum += taken(unit + index, SUMMED);
            }
            for (var index = middle + 1u; index < row_units; index++) {
                sum += select(vec4<f32>(), taken(unit + index, SUMMED), mask_of(unit + index, begin));
            }
        }
    }
    for (var row = 0u; row < OUTER; row++) {
        let begin = (row * CHANNELS + channel) * INNER;
        let unit = begin / 4u;
        if MIDDLE_APART {
            store_masked(unit, taken(unit, MAPPED) + sum, mask_of(unit, begin));
            for (var index = 1u; index <= middle; index++) {
                store(unit + index, taken(unit + index, MAPPED) + sum);
            }
            for (var index = middle + 1u; index < row_units; index++) {
                store_masked(unit + index, taken(unit + index, MAPPED) + sum, mask_of(unit + index, begin));
            }
        } else {
            for (var index = 0u; index < row_units; index++) {
                store_masked(unit + index, taken(unit + index, MAPPED) + sum, mask_of(unit + index, begin));
            }
        }
    }
}
