// From the accumulators of a tile's lanes to those of its channels: rows, where a lane is a channel.

/// For all positions. Must be called in uniform control flow.
fn gather_channels(merged: Accumulator, place: Place) -> Accumulator {
    return share(merge_components(merged), place);
}
