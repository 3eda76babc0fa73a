// Counts the batch, after every channel has read the counter.

@group(0) @binding(14)
var<storage, read_write> batches_tracked: array<u32>;

@compute @workgroup_size(1)
fn main() {
    batches_tracked[0] += 1u;
}
