// A pivot for what is merged, of a place with a channel a component.

/// Slots that are looked at for one with data, so that all loops together stay within what every driver allows.
const MOST_EMPTY: u32 = 16384u;

/// The pivot of the first slot that has data: a window's whole share of a channel may be padding.
fn pivot_of_first(channels: vec4<u32>) -> vec4<f32> {
    let first = slots_at(0u, channels);
    var pivot = first.pivot;
    var found = first.count > vec4<f32>();
    for (var slot = 1u; slot < min(params.slots, MOST_EMPTY) && !all(found); slot++) {
        let next = slots_at(slot, channels);
        pivot = select(next.pivot, pivot, found);
        found = found | (next.count > vec4<f32>());
    }
    return pivot;
}
