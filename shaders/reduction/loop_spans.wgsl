// Reduces what a span of lanes walks over, row by row.

/// Rows, and so units of a lane, that one accumulator takes at least before it is merged into the next level: half as many as with trips.
const ROWS_PER_LEVEL: u32 = 32u;

fn reduce_span(place: Place, extent: Extent) -> array<Accumulator, MOST_LANES_PER_SPAN> {
    var bases: array<Basis, MOST_LANES_PER_SPAN>;
    var columns: array<u32, MOST_LANES_PER_SPAN>;
    var totals: array<Accumulator, MOST_LANES_PER_SPAN>;
    for (var step = 0u; step < SPAN; step++) {
        let own = beside(place, step);
        bases[step] = basis_of(own, extent);
        columns[step] = own.column_unit;
        totals[step] = empty(bases[step]);
    }
    // About the square root of all rows where there are more than the square of that, as with trips.
    let per_level = max(ROWS_PER_LEVEL, 1u << ((firstLeadingBit((extent.end - extent.start) | 1u) + 1u) / 2u));
    var first = first_row(place, extent);
    var level = extent.start;
    if level < extent.end {
        loop {
            var states: array<Accumulator, MOST_LANES_PER_SPAN>;
            for (var step = 0u; step < SPAN; step++) {
                states[step] = empty(bases[step]);
            }
            let level_end = min(level + per_level, extent.end);
            var row = level;
            loop {
                for (var step = 0u; step < SPAN; step++) {
                    let values = load_unit(first + columns[step]);
                    states[step] = accumulate_unit(bases[step], states[step], values, f32(row - level));
                }
                first += params.row_units;
                row++;
                continuing {
                    break if row >= level_end;
                }
            }
            for (var step = 0u; step < SPAN; step++) {
                totals[step] = merge(totals[step], states[step]);
            }
            level = level_end;
            continuing {
                break if level >= extent.end;
            }
        }
    }
    return totals;
}
