// Which elements count: all of the walk.

/// Of one of the four units of a trip.
fn unit_mask(trip: Trip, which: u32) -> vec4<bool> {
    return walk_mask(trip, which);
}
