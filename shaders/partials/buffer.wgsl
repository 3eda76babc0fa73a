// The partial results of the splits: the records of a channel's slots side by side, channel after channel; after the last
// one, for statistics, a record with the number of batches tracked before this one; then the channels' parameters.

@group(0) @binding(10)
var<storage, read_write> partials: array<Record>;

fn partial_at(channel: u32, slot: u32) -> u32 {
    return params.partials_base + channel * params.slots + slot;
}
