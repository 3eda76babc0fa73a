// What one invocation takes at once: a trip of four units. Units are four consecutive elements, here of one quad each.

struct Trip {
    /// The units; 0, which always exists, in place of one that is not valid.
    units: vec4<u32>,
    /// Whether a unit is part of the walk.
    valid: vec4<bool>,
    /// How far the first element of each unit lies past the first of its row of the quad.
    offsets: vec4<u32>,
}

fn new_trip(units: vec4<u32>, valid: vec4<bool>, begins: vec4<u32>) -> Trip {
    return Trip(select(vec4<u32>(), units, valid), valid, select(vec4<u32>(), 4u * units - begins, valid));
}

/// Which elements of one of the four units are the walk's.
fn walk_mask(trip: Trip, which: u32) -> vec4<bool> {
    return vec4<bool>(trip.valid[which]);
}

fn owners_of(trip: Trip, which: u32) -> Owners {
    return owners_at(trip.offsets[which]);
}

/// No trip is known to be whole.
fn count_whole_trips(whole_extent: u32) -> u32 {
    return 0u;
}
