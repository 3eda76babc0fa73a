// The gradient sums of several parts of a batch as those of one.

/// Σh, Σh·x̂.
@group(0) @binding(30)
var<storage, read_write> merged_gradient_sums: array<vec2<f32>>;

fn commit(merged: Accumulator, place: Place) {
    let channels = channels_of(place);
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            merged_gradient_sums[channels[component]] = vec2<f32>(merged.sum[component], merged.product[component]);
        }
    }
}
