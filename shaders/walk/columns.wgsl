// The columns family: the tensor as a matrix of super-rows, a lane is a unit column, its positions walk down.
//
// A super-row is the shortest run of whole outer steps that is a multiple of four elements, so the four components of a
// lane keep their channels from super-row to super-row. `inner` consecutive columns are a run: one channel.

struct Place {
    lane: u32,
    position: u32,
    /// False for invocations beyond the last position or column.
    participates: bool,
    /// The part of the tensor.
    part: u32,
    /// First unit column of the tile.
    tile_unit: u32,
    /// The unit column; in range even where the place does not participate.
    column_unit: u32,
}

fn locate(group: u32, invocation: u32) -> Place {
    let lane = invocation % params.lanes;
    let position = invocation / params.lanes;
    let tile = group % params.tiles;
    let part = tile / params.part_tiles;
    let tile_unit = (tile - part * params.part_tiles) * params.lanes;
    return Place(
        lane,
        position,
        position < params.positions && tile_unit + lane < params.row_units,
        part,
        tile_unit,
        min(tile_unit + lane, params.row_units - 1u),
    );
}

/// The channels of a place's four components.
fn channels_of(place: Place) -> vec4<u32> {
    return vec4<u32>(first_channel(place)) + channels_in_part(place);
}

fn channels_in_part(place: Place) -> vec4<u32> {
    return (columns_of(place) / params.inner) % params.part_channels;
}

/// The first channel of a place's part.
fn first_channel(place: Place) -> u32 {
    return params.first_channel + place.part * params.part_channels;
}

/// The first unit of a place's part; parts and windows of columns are whole units.
fn first_unit(place: Place) -> u32 {
    return params.window_base / 4u + place.part * (params.part_elements / 4u);
}

/// The columns of a place's four components; the last one again past the end of a partial unit.
fn columns_of(place: Place) -> vec4<u32> {
    let columns = vec4<u32>(4u * place.column_unit) + vec4<u32>(0u, 1u, 2u, 3u);
    return min(columns, vec4<u32>(params.repeats * params.outer_elements - 1u));
}

/// Whether a component of this place is the one, of all in the tile, that writes its channel's results.
fn owns_channel(place: Place, component: u32) -> bool {
    let column = 4u * place.column_unit + component;
    return place.participates
        && place.position == 0u
        && column < params.outer_elements
        && column % params.inner == 0u;
}
