// The batch counter, read and counted in the one dispatch of a step. Only one of the two: workgroups know no order.

@group(0) @binding(13)
var<storage, read_write> batches_tracked: array<u32>;

fn batches_before() -> f32 {
    return f32(batches_tracked[0]);
}

fn count_batch() {
    if has(COUNTS_BATCH) {
        // Saturating, as in the reference.
        batches_tracked[0] += select(0u, 1u, batches_tracked[0] < 0xffffffffu);
    }
}
