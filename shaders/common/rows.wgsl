// The rows family: a lane is a channel, its positions walk the units of all rows of the channel.
//
// A row is the `inner` consecutive elements of one (outer, channel) pair. Its units are those that hold any of its
// elements; the first and the last may belong to neighbours too unless rows are aligned.

struct RowCursor {
    outer: u32,
    /// Unit within the row.
    unit: u32,
}

fn row_cursor(index: u32) -> RowCursor {
    return RowCursor(index / params.row_units, index % params.row_units);
}

/// The next unit of the same position; no division.
fn advance(cursor: RowCursor) -> RowCursor {
    var next = RowCursor(cursor.outer + params.step_outer, cursor.unit + params.step_unit);
    if next.unit >= params.row_units {
        next.unit -= params.row_units;
        next.outer += 1u;
    }
    return next;
}

/// First element of the row under a cursor.
fn row_start(cursor: RowCursor, channel: u32) -> u32 {
    return (cursor.outer * params.channels + channel) * params.inner;
}

/// The unit of the tensor under a cursor.
fn row_unit(cursor: RowCursor, channel: u32) -> u32 {
    return row_start(cursor, channel) / 4u + cursor.unit;
}

/// Which components of the unit under a cursor belong to its row.
fn row_mask(cursor: RowCursor, channel: u32) -> vec4<bool> {
    let start = row_start(cursor, channel);
    let elements = vec4<u32>(4u * row_unit(cursor, channel)) + vec4<u32>(0u, 1u, 2u, 3u);
    return (elements >= vec4<u32>(start)) & (elements < vec4<u32>(start + params.inner));
}
