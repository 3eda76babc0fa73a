// Merges the columns of a run, which lie side by side in workgroup memory.

/// Columns that are merged one by one before they are merged with the others: long chains of additions lose digits.
const COLUMNS_PER_LEVEL: u32 = 8u;

/// Columns from `begin` to `end`, of which the first exists; those from `limit` on do not.
fn merge_run(begin: u32, end: u32, limit: u32) -> Accumulator {
    var total = emptied(splat(load_shared_record(begin)));
    for (var level = begin; level < end; level += COLUMNS_PER_LEVEL) {
        var state = emptied(total);
        for (var column = level; column < min(level + COLUMNS_PER_LEVEL, end); column++) {
            if column < limit {
                state = merge(state, splat(load_shared_record(column)));
            }
        }
        total = merge(total, state);
    }
    return total;
}
