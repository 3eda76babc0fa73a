// The least that a walk over rows can do whose invocations take several lanes each, side by side: sums what it is given, keeps nothing
// else of it, reads it again and writes it.

@group(0) @binding(0)
var<storage, read> first: array<vec4<f32>>;
@group(0) @binding(1)
var<storage, read> second: array<vec4<f32>>;
@group(0) @binding(2)
var<storage, read_write> target_: array<vec4<f32>>;

override WORKGROUP_SIZE: u32;
/// Lanes of an invocation, each as far from the next as there are invocations.
override SPAN: u32;
override ALL_LANES: u32;
/// Rows, and those that one workgroup takes.
override EXTENT: u32;
override SPLIT: u32;
/// Tensors that are summed, and tensors that are read again to write one; 0 for a walk that is left out.
override SUMMED: u32;
override MAPPED: u32;

fn taken(unit: u32, tensors: u32) -> vec4<f32> {
    var value = first[unit];
    if tensors == 2u {
        value += second[unit];
    }
    return value;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = workgroup.y * workgroups.x + workgroup.x;
    let lanes = SPAN * WORKGROUP_SIZE;
    let tiles = (ALL_LANES + lanes - 1u) / lanes;
    let begin = group / tiles * SPLIT;
    if begin >= EXTENT {
        return;
    }
    let end = min(begin + SPLIT, EXTENT);
    var columns: array<u32, 8>;
    var participates: array<bool, 8>;
    var sums: array<vec4<f32>, 8>;
    for (var step = 0u; step < SPAN; step++) {
        let lane = group % tiles * lanes + step * WORKGROUP_SIZE + invocation;
        columns[step] = min(lane, ALL_LANES - 1u);
        participates[step] = lane < ALL_LANES;
    }
    if SUMMED > 0u {
        var row = begin;
        loop {
            for (var step = 0u; step < SPAN; step++) {
                sums[step] += taken(row * ALL_LANES + columns[step], SUMMED);
            }
            row++;
            continuing {
                break if row >= end;
            }
        }
    }
    if MAPPED > 0u {
        var row = begin;
        loop {
            for (var step = 0u; step < SPAN; step++) {
                let unit = row * ALL_LANES + columns[step];
                let value = taken(unit, MAPPED) + sums[step];
                if participates[step] {
                    target_[unit] = value;
                }
            }
            row++;
            continuing {
                break if row >= end;
            }
        }
    } else {
        var sum = vec4<f32>();
        for (var step = 0u; step < SPAN; step++) {
            sum += sums[step];
        }
        let result = group * WORKGROUP_SIZE + invocation;
        if result < arrayLength(&target_) {
            target_[result] = sum;
        }
    }
}
