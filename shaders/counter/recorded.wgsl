// The batch counter, as the reduction before this dispatch left it beside the partials.

fn batches_before() -> f32 {
    return partials[partial_at(params.channels, 0u)].x;
}
