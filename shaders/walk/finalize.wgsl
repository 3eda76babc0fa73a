// The walk of finalize: a lane is a quad, four consecutive channels; its positions share the slots.

struct Place {
    lane: u32,
    position: u32,
    /// False for invocations beyond the last position or quad.
    participates: bool,
    quad: u32,
}

fn locate(group: u32, invocation: u32) -> Place {
    let lane = invocation % params.lanes;
    let position = invocation / params.lanes;
    let quad = group * params.lanes + lane;
    return Place(lane, position, position < params.positions && 4u * quad < params.channels, quad);
}

/// The channels of a place's four components; the last one again past the end.
fn channels_of(place: Place) -> vec4<u32> {
    return min(vec4<u32>(4u * place.quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.channels - 1u));
}

/// Whether a component of this place writes its channel's results.
fn owns_channel(place: Place, component: u32) -> bool {
    return place.participates && place.position == 0u && 4u * place.quad + component < params.channels;
}
