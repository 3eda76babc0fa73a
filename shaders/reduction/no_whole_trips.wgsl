// A reduction all of whose trips take a mask.

fn reduce_whole_trips(basis: Basis, walker: ptr<function, Walker>, whole: u32, per_level: u32) -> Accumulator {
    return empty(basis);
}
