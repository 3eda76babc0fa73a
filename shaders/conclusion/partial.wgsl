// What many slots leave for the dispatch after: one, past the slots that it comes from, and the batch count past that.

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    let first = partial_at(params.channels, 1u);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            partials[first + channels[component]] = record_of(merged, component);
        }
    }
    if owns_channel(place, 0u) && channels.x == 0u {
        partials[first + params.channels] = partials[first - 1u];
    }
}
