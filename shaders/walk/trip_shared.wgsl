// What one invocation takes at once: a trip of four units. Units are four consecutive elements, of which some may belong to
// a neighbour, or not exist.

struct Trip {
    /// The units; 0, which always exists, in place of one that is not valid.
    units: vec4<u32>,
    /// Whether a unit is part of the walk.
    valid: vec4<bool>,
    /// How far the first element of each unit lies past the first element that is the walk's; wraps around before it.
    offsets: vec4<u32>,
}

/// A unit holds elements of the walk from `begins` on, `run_length()` of them.
fn new_trip(units: vec4<u32>, valid: vec4<bool>, begins: vec4<u32>) -> Trip {
    // So far before its begin, a unit that is not valid holds nothing.
    return Trip(select(vec4<u32>(), units, valid), valid, select(vec4<u32>(0u - 4u), 4u * units - begins, valid));
}

/// Which elements of one of the four units are the walk's: one comparison, since what lies before the begin wraps around.
fn walk_mask(trip: Trip, which: u32) -> vec4<bool> {
    return (vec4<u32>(trip.offsets[which]) + vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(run_length());
}

/// No trip is known to be whole.
fn count_whole_trips(whole_extent: u32) -> u32 {
    return 0u;
}
