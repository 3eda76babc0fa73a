// What one invocation takes at once: a trip of four units. Units are four consecutive elements, here of one lane each.

struct Trip {
    /// The units; 0, which always exists, in place of one that is not valid.
    units: vec4<u32>,
    /// Whether a unit is part of the walk.
    valid: vec4<bool>,
}

fn new_trip(units: vec4<u32>, valid: vec4<bool>, begins: vec4<u32>) -> Trip {
    return Trip(select(vec4<u32>(), units, valid), valid);
}

/// Which elements of one of the four units are the walk's.
fn unit_mask(trip: Trip, which: u32) -> vec4<bool> {
    return vec4<bool>(trip.valid[which]);
}

/// The trips of a split in which every unit is valid for every position.
fn count_whole_trips(whole_extent: u32) -> u32 {
    return whole_extent / (4u * params.positions);
}
