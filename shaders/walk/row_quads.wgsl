// The quads family: a lane is a quad, four consecutive channels, its positions walk the units of all rows of the quad.
//
// Four rows that lie one after the other are `inner` whole units, whatever `inner` is: a row of a quad. A unit's elements are
// of one of its channels, or the last of one and the first of the next.

struct Place {
    lane: u32,
    position: u32,
    /// False for invocations beyond the last lane or quad.
    participates: bool,
    /// The first of the four; in range even where the place does not participate.
    channel: u32,
    /// Its first element.
    first: u32,
}

fn locate(group: u32, invocation: u32) -> Place {
    let lane = invocation / params.positions;
    let channel = params.first_channel + 4u * ((group % params.tiles) * params.lanes + lane);
    let existing = min(channel, params.end_channel - 4u);
    return Place(
        lane,
        invocation % params.positions,
        lane < params.lanes && channel < params.end_channel,
        existing,
        first_element(existing),
    );
}

/// The channels of a place's four components.
fn channels_of(place: Place) -> vec4<u32> {
    return vec4<u32>(place.channel) + vec4<u32>(0u, 1u, 2u, 3u);
}

/// Whether this place writes the results of a component's channel.
fn owns_channel(place: Place, component: u32) -> bool {
    return place.participates && place.position == 0u;
}
