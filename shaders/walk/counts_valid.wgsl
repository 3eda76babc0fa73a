// Which elements count: those of the walk that are not padding.

/// Of one of the four units of a trip.
fn unit_mask(trip: Trip, which: u32) -> vec4<bool> {
    return walk_mask(trip, which) & load_valid(trip.units[which]);
}
