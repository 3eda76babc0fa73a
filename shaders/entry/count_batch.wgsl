// Counts the batch, after every channel has read the counter.

@group(0) @binding(13)
var<storage, read_write> batches_tracked: array<u32>;

@compute @workgroup_size(1)
fn main() {
    // Saturating, as in the reference.
    batches_tracked[0] += select(0u, 1u, batches_tracked[0] < 0xffffffffu);
}
