// The rows of a quad, run by run: an invocation has its quad to itself, and takes each row of it channel by channel, a *run* of units of
// one channel, but for the first, which may begin with the end of the channel before. So a run needs no question whose a unit is.

/// The first unit of the row of the quad in which a place begins.
fn first_row(place: Place, extent: Extent) -> u32 {
    return (place.first + extent.start / params.row_units * params.outer_elements) / 4u;
}

/// Where a channel's run begins in a row of the quad, in units; that of the channel past the last one is the row's end.
fn run_begin(channel: u32) -> u32 {
    return channel * params.inner / 4u;
}
