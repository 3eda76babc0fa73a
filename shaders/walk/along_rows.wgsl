// How a place with rows goes from unit to unit: along a row, and on to the next outer step's; depends on `Place`.

struct Walker {
    /// Within the extent.
    index: u32,
    /// First element of the row.
    row: u32,
    /// Unit within the row.
    unit: u32,
}

fn walk(place: Place, extent: Extent) -> Walker {
    let index = extent.start + place.position;
    let row = (index / params.row_units) * params.outer_elements + place.first;
    return Walker(index, row, index % params.row_units);
}

/// The next unit of the same position; no division.
fn advance(walker: Walker) -> Walker {
    let unit = walker.unit + params.step_unit;
    let row = walker.row + params.step_elements;
    let wraps = unit >= params.row_units;
    return Walker(
        walker.index + params.positions,
        select(row, row + params.outer_elements, wraps),
        select(unit, unit - params.row_units, wraps),
    );
}

struct Cursors {
    indices: vec4<u32>,
    rows: vec4<u32>,
    units: vec4<u32>,
}

/// The next four units, which the walk moves past, with their rows and their places in the extent.
fn take_cursors(walker: ptr<function, Walker>) -> Cursors {
    let a = *walker;
    let b = advance(a);
    let c = advance(b);
    let d = advance(c);
    *walker = advance(d);
    let rows = vec4<u32>(a.row, b.row, c.row, d.row);
    return Cursors(
        vec4<u32>(a.index, b.index, c.index, d.index),
        rows,
        rows / 4u + vec4<u32>(a.unit, b.unit, c.unit, d.unit),
    );
}

/// The units of a trip that is known to be whole.
fn take_units(walker: ptr<function, Walker>) -> vec4<u32> {
    return take_cursors(walker).units;
}

fn take_trip(walker: ptr<function, Walker>, place: Place, extent: Extent) -> Trip {
    let cursors = take_cursors(walker);
    // A row that needs fewer units than its place offers may end with the tensor.
    let valid = (cursors.indices < vec4<u32>(extent.end))
        & (cursors.units < vec4<u32>(params.units))
        & vec4<bool>(place.participates);
    return new_trip(cursors.units, valid, cursors.rows);
}

/// How many trips of the split take no mask; the same for all places of the workgroup.
fn whole_trips(extent: Extent) -> u32 {
    return count_whole_trips(extent.end - extent.start);
}

/// Rows lie side by side in memory as they are walked.
fn keep_in_step(trip: u32) {}
