// Down the super-rows of a lane, trip by trip.

struct Walker {
    row: u32,
    unit: u32,
}

fn walk(place: Place, extent: Extent) -> Walker {
    // Places beyond the last position go along with the last.
    let row = extent.start + min(place.position, params.positions - 1u);
    return Walker(row, first_unit(place) + row * params.row_units + place.column_unit);
}

/// The units of a trip that is known to be whole.
fn take_units(walker: ptr<function, Walker>) -> vec4<u32> {
    let step = params.positions * params.row_units;
    let units = vec4<u32>((*walker).unit) + step * vec4<u32>(0u, 1u, 2u, 3u);
    (*walker).row += 4u * params.positions;
    (*walker).unit += 4u * step;
    return units;
}

fn take_trip(walker: ptr<function, Walker>, place: Place, extent: Extent) -> Trip {
    let rows = vec4<u32>((*walker).row) + params.positions * vec4<u32>(0u, 1u, 2u, 3u);
    let units = take_units(walker);
    // The last super-row may be cut off.
    let valid = (rows < vec4<u32>(extent.end)) & (units < vec4<u32>(params.units)) & vec4<bool>(place.participates);
    return new_trip(units, valid, vec4<u32>());
}

/// All elements that are bound, which begin at 0.
fn run_length() -> u32 {
    return params.elements;
}

/// How many trips of the split take no mask; the same for all places of the workgroup.
fn whole_trips(extent: Extent) -> u32 {
    let cut_off = 4u * extent.end * params.row_units > params.elements - params.window_base;
    return count_whole_trips(extent.end - extent.start - select(0u, 1u, cut_off));
}

/// A constant of the pipeline, since a barrier in a loop costs software drivers a good part of the loop, taken or not.
override KEEPS_IN_STEP: bool;

/// Keeps the invocations of a workgroup near each other in memory, where a driver runs them one after the other: the next
/// ones then find in a cache what lies beside. Must be called in uniform control flow.
fn keep_in_step(trip: u32) {
    if KEEPS_IN_STEP {
        if trip % params.trips_in_step == params.trips_in_step - 1u {
            workgroupBarrier();
        }
    }
}
