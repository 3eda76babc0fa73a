// The rows family: a lane is a channel, its positions walk the units of all rows of the channel.
//
// A row is the `inner` consecutive elements of one (outer, channel) pair. Its units are those that hold any of its
// elements; the first and the last may hold neighbours' too unless rows are aligned.

struct Place {
    lane: u32,
    position: u32,
    /// False for invocations beyond the last lane or channel.
    participates: bool,
    /// In range even where the place does not participate.
    channel: u32,
    /// Its first element.
    first: u32,
}

fn locate(group: u32, invocation: u32) -> Place {
    let lane = invocation / params.positions;
    let channel = params.first_channel + (group % params.tiles) * params.lanes + lane;
    let existing = min(channel, params.end_channel - 1u);
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
    return vec4<u32>(place.channel);
}

/// Whether a component of this place is the one, of all in the tile, that writes its channel's results.
fn owns_channel(place: Place, component: u32) -> bool {
    return place.participates && place.position == 0u && component == 0u;
}

/// Elements of a row.
fn run_length() -> u32 {
    return params.inner;
}
