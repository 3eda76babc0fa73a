// Lanes that one invocation takes side by side, a *span*: where a driver runs one vector of invocations after the other, a vector
// so reads a row from one end of its tile to the other, in place of a little of it and then the same of the next row.

/// Lanes of an invocation.
override SPAN: u32;
const MOST_LANES_PER_SPAN: u32 = 8u;

/// The place of a lane of the span that begins with a place. A lane past the last one of the tile does not participate.
fn beside(place: Place, step: u32) -> Place {
    let lane = place.lane + step * WORKGROUP_SIZE;
    let unit = place.tile_unit + lane;
    return Place(
        lane,
        place.position,
        lane < params.lanes && unit < params.row_units,
        place.part,
        place.tile_unit,
        min(unit, params.row_units - 1u),
    );
}

/// The first unit of the row with which a place begins.
fn first_row(place: Place, extent: Extent) -> u32 {
    return first_unit(place) + extent.start * params.row_units;
}
