// Counts the batch, after every channel has read the counter.

@group(0) @binding(13)
var<storage, read_write> batches_tracked: array<u32>;

@compute @workgroup_size(1)
fn main() {
    // Saturating, as in the reference. Segments that update in turn count as a batch each.
    batches_tracked[0] += min(params.segments, 0xffffffffu - batches_tracked[0]);
}
