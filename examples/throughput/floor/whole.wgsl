// The least that a walk over whole units can do: sums what it is given, keeps nothing else of it, reads it again and writes it.
//
// A lane is a run of units, again and again at a distance: a channel's rows, or, with runs of one unit, four channels of
// columns. An invocation keeps to its lane, since it is statistics of one lane that it would hold.

@group(0) @binding(0)
var<storage, read> first: array<vec4<f32>>;
@group(0) @binding(1)
var<storage, read> second: array<vec4<f32>>;
@group(0) @binding(2)
var<storage, read_write> target_: array<vec4<f32>>;

override WORKGROUP_SIZE: u32;
/// Neighbouring invocations take neighbouring lanes, not neighbouring units of one.
override SIDE_BY_SIDE: bool;
override LANES: u32;
override POSITIONS: u32;
override ALL_LANES: u32;
/// Units of a run.
override RUN: u32;
/// Units from a run to the next.
override DISTANCE: u32;
/// Units of a lane, and of what one workgroup takes of them.
override EXTENT: u32;
override SPLIT: u32;
/// Tensors that are summed, and tensors that are read again to write one; 0 for a walk that is left out.
override SUMMED: u32;
override MAPPED: u32;
override WAITS: bool;

struct Walker {
    unit: u32,
    base: u32,
}

fn at(walker: Walker) -> u32 {
    return walker.base + walker.unit;
}

fn advance(walker: Walker) -> Walker {
    let unit = walker.unit + POSITIONS % RUN;
    let base = walker.base + POSITIONS / RUN * DISTANCE;
    let wraps = unit >= RUN;
    return Walker(select(unit, unit - RUN, wraps), select(base, base + DISTANCE, wraps));
}

fn walk(lane: u32, index: u32) -> Walker {
    return Walker(index % RUN, lane * RUN + index / RUN * DISTANCE);
}

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
    let tiles = (ALL_LANES + LANES - 1u) / LANES;
    let tile = group % tiles;
    let begin = group / tiles * SPLIT;
    if begin >= EXTENT {
        return;
    }
    let end = min(begin + SPLIT, EXTENT);
    let own = select(invocation / POSITIONS, invocation % LANES, SIDE_BY_SIDE);
    let position = select(invocation % POSITIONS, invocation / LANES, SIDE_BY_SIDE);
    let participates = own < LANES && position < POSITIONS && tile * LANES + own < ALL_LANES;
    let lane = min(tile * LANES + own, ALL_LANES - 1u);
    let start = begin + min(position, POSITIONS - 1u);
    let whole = (end - begin) / (4u * POSITIONS);
    var sum = vec4<f32>();
    if SUMMED > 0u {
        var walker = walk(lane, start);
        if whole > 0u {
            var trip = 0u;
            loop {
                let a = walker;
                let b = advance(a);
                let c = advance(b);
                let d = advance(c);
                walker = advance(d);
                sum += (taken(at(a), SUMMED) + taken(at(b), SUMMED)) + (taken(at(c), SUMMED) + taken(at(d), SUMMED));
                if WAITS {
                    if trip % 4u == 3u {
                        workgroupBarrier();
                    }
                }
                trip++;
                continuing {
                    break if trip >= whole;
                }
            }
        }
        for (var index = start + 4u * whole * POSITIONS; index < end; index += POSITIONS) {
            sum += taken(at(walker), SUMMED);
            walker = advance(walker);
        }
    }
    if MAPPED > 0u {
        var walker = walk(lane, start);
        if whole > 0u {
            var trip = 0u;
            loop {
                let a = walker;
                let b = advance(a);
                let c = advance(b);
                let d = advance(c);
                walker = advance(d);
                let values = array(
                    taken(at(a), MAPPED) + sum,
                    taken(at(b), MAPPED) + sum,
                    taken(at(c), MAPPED) + sum,
                    taken(at(d), MAPPED) + sum,
                );
                if participates {
                    target_[at(a)] = values[0];
                    target_[at(b)] = values[1];
                    target_[at(c)] = values[2];
                    target_[at(d)] = values[3];
                }
                if WAITS {
                    if trip % 4u == 3u {
                        workgroupBarrier();
                    }
                }
                trip++;
                continuing {
                    break if trip >= whole;
                }
            }
        }
        for (var index = start + 4u * whole * POSITIONS; index < end; index += POSITIONS) {
            let value = taken(at(walker), MAPPED) + sum;
            if participates {
                target_[at(walker)] = value;
            }
            walker = advance(walker);
        }
    } else {
        let result = group * WORKGROUP_SIZE + invocation;
        if result < arrayLength(&target_) {
            target_[result] = sum;
        }
    }
}
