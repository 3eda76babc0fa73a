// The batch counter, counted by a reduction that leaves the old count beside the partials for the dispatch after it.

@group(0) @binding(13)
var<storage, read_write> batches_tracked: array<u32>;

fn count_batch() {
    if has(COUNTS_BATCH) {
        let before = batches_tracked[0];
        partials[partial_at(params.channels, 0u)] = Record(f32(before), 0.0, 0.0, 0.0);
        // Saturating, as in the reference.
        batches_tracked[0] = before + select(0u, 1u, before < 0xffffffffu);
    }
}
