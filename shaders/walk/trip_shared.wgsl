// What one invocation takes at once: a trip of four units. Units are four consecutive elements, of which some may belong to
// a neighbour, or not exist.

struct Trip {
    /// The units; 0, which always exists, in place of one that is not valid.
    units: vec4<u32>,
    /// Whether a unit is part of the walk.
    valid: vec4<bool>,
    /// Elements of a unit below this belong to a neighbour.
    begins: vec4<u32>,
    /// Elements of a unit from here on belong to a neighbour, or do not exist.
    limits: vec4<u32>,
}

fn new_trip(units: vec4<u32>, valid: vec4<bool>, begins: vec4<u32>, limits: vec4<u32>) -> Trip {
    return Trip(select(vec4<u32>(), units, valid), valid, begins, limits);
}

/// Which elements of one of the four units are the walk's.
fn unit_mask(trip: Trip, which: u32) -> vec4<bool> {
    let elements = vec4<u32>(4u * trip.units[which]) + vec4<u32>(0u, 1u, 2u, 3u);
    return (elements >= vec4<u32>(trip.begins[which]))
        & (elements < vec4<u32>(trip.limits[which]))
        & vec4<bool>(trip.valid[which]);
}

/// No trip is known to be whole.
fn count_whole_trips(whole_extent: u32) -> u32 {
    return 0u;
}
