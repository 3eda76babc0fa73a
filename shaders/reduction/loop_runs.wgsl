// Reduces what a place walks over, run by run.

/// Units of a run, and rows, that one accumulator takes before it is merged into the next level, as with trips.
const UNITS_PER_LEVEL: u32 = 64u;
const ROWS_PER_LEVEL: u32 = 16u;

/// Must be called in uniform control flow.
fn reduce_place(place: Place, extent: Extent) -> Accumulator {
    let basis = basis_of(place, extent);
    var total = empty(basis);
    var row = first_row(place, extent);
    if row.index < extent.end {
        loop {
            var state = empty(basis);
            let level_end = min(row.index + ROWS_PER_LEVEL * params.positions * params.row_units, extent.end);
            loop {
                state = reduce_row(basis, state, row.unit);
                row = next_row(row);
                continuing {
                    break if row.index >= level_end;
                }
            }
            total = merge(total, state);
            continuing {
                break if row.index >= extent.end;
            }
        }
    }
    return merge_positions(total, place, params.positions, params.merge_groups);
}

fn reduce_row(basis: Basis, before: Accumulator, row: u32) -> Accumulator {
    var state = before;
    var channel = 0u;
    loop {
        let begin = run_begin(channel);
        let end = run_begin(channel + 1u);
        state = merge(state, reduced_unit(basis, load_unit(row + begin), owners_at(4u * begin)));
        let owners = whole_owners(channel);
        let own = picked_basis(basis, owners);
        var unit = begin + 1u;
        if unit < end {
            loop {
                var run = empty(own);
                let level = unit;
                let level_end = min(level + UNITS_PER_LEVEL, end);
                loop {
                    run = accumulate_unit(own, run, load_unit(row + unit), f32(unit - level));
                    unit++;
                    continuing {
                        break if unit >= level_end;
                    }
                }
                let merged = merge(picked_accumulator(state, owners), merge_components(run));
                state = select_accumulator(state, merged, vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(channel));
                continuing {
                    break if unit >= end;
                }
            }
        }
        channel++;
        continuing {
            break if channel >= 4u;
        }
    }
    return state;
}
