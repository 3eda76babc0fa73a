// The rows of a quad, run by run: an invocation has a row to itself, and takes it channel by channel. A *run* is the units of one
// channel, of which the first may begin with the end of the channel before; of the others nobody asks whose they are.

/// A row of the quad.
struct RowCursor {
    /// Within the extent.
    index: u32,
    /// Its first unit.
    unit: u32,
}

/// The row in which a place begins. The positions of a quad take rows in turn.
fn first_row(place: Place, extent: Extent) -> RowCursor {
    let row = extent.start / params.row_units + place.position;
    return RowCursor(row * params.row_units, (place.first + row * params.outer_elements) / 4u);
}

/// The next row of the same position.
fn next_row(row: RowCursor) -> RowCursor {
    return RowCursor(
        row.index + params.positions * params.row_units,
        row.unit + params.positions * (params.outer_elements / 4u),
    );
}

/// Where a channel's run begins in a row of the quad, in units; that of the channel past the last one is the row's end.
fn run_begin(channel: u32) -> u32 {
    return channel * params.inner / 4u;
}

/// Of a unit that is all of one channel.
fn whole_owners(channel: u32) -> Owners {
    return Owners(channel, vec4<bool>(true));
}
