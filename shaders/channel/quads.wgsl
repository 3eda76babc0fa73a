// From the accumulators of a tile's lanes to those of its channels: quads, where a channel is one component of a lane.

/// For all positions. Must be called in uniform control flow.
fn gather_channels(merged: Accumulator, place: Place) -> Accumulator {
    return share(merged, place);
}
