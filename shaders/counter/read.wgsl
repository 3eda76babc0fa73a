// The batch counter, which a dispatch after this one counts.

@group(0) @binding(13)
var<storage, read> batches_tracked: array<u32>;

fn batches_before() -> f32 {
    return f32(batches_tracked[0]);
}
