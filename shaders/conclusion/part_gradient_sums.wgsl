// The gradient sums of a part of a batch, to be added to those of other parts; and the sums that this part's dgamma comes of.

/// Σh, Σh·x̂.
@group(0) @binding(28)
var<storage, read_write> gradient_sums: array<vec2<f32>>;

fn prepare(merged: Accumulator, place: Place) -> Accumulator {
    let channels = channels_of(place);
    var product = merged.product;
    for (var component = 0u; component < 4u; component++) {
        if owns_channel(place, component) {
            let channel = channels[component];
            gradient_sums[channel] = vec2<f32>(merged.sum[component], merged.product[component]);
            let correction = renormalization_at(channel);
            if has(RENORMALIZES) {
                product[component] = correction.x * merged.product[component] + correction.y * merged.sum[component];
            }
        }
    }
    return Accumulator(merged.sum, product);
}
