// Merges the accumulators of all positions of a lane; depends on `merge`, `store_shared` and `load_shared`.

/// Blocks that one accumulator takes before it is merged into the next level.
const BLOCKS_PER_LEVEL: u32 = 32u;

/// Afterwards position 0 of each lane holds the merge of its lane. Two barriers instead of a tree: first
/// `merge_groups` positions merge every `merge_groups`-th accumulator, then position 0 merges theirs.
/// Must be called in uniform control flow; `participates` is false for invocations beyond the last lane.
fn merge_positions(own: Accumulator, lane: u32, position: u32, participates: bool) -> Accumulator {
    if params.positions == 1u {
        return own;
    }
    var merged = own;
    if participates {
        store_shared(position * params.lanes + lane, own);
    }
    workgroupBarrier();
    if participates && position < params.merge_groups {
        for (var other = position + params.merge_groups; other < params.positions; other += params.merge_groups) {
            merged = merge(merged, load_shared(other * params.lanes + lane));
        }
        store_shared(position * params.lanes + lane, merged);
    }
    workgroupBarrier();
    if participates && position == 0u {
        for (var other = 1u; other < params.merge_groups; other++) {
            merged = merge(merged, load_shared(other * params.lanes + lane));
        }
    }
    return merged;
}
