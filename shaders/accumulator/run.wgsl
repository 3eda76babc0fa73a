// Merges the columns of a run, which lie side by side in workgroup memory.

/// Columns from `begin` to `end`, of which the first exists; those from `limit` on do not. In three levels, all about as long:
/// a chain of additions takes a digit from a channel whose sum is one outlier's.
fn merge_run(begin: u32, end: u32, limit: u32) -> Accumulator {
    let side = cube_side(end - begin);
    let existing = min(end, limit);
    let none = emptied(splat(load_shared_record(begin)));
    var total = none;
    for (var high = begin; high < existing; high += side * side) {
        var level = none;
        for (var low = high; low < min(high + side * side, existing); low += side) {
            var state = none;
            for (var column = low; column < min(low + side, existing); column++) {
                state = merge(state, splat(load_shared_record(column)));
            }
            level = merge(level, state);
        }
        total = merge(total, level);
    }
    return total;
}

/// The side of the smallest cube that holds so many.
fn cube_side(count: u32) -> u32 {
    var side = 1u;
    while side * side * side < count {
        side++;
    }
    return side;
}
