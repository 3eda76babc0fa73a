// Maps what a span of lanes walks over, row by row.

fn apply_to_span(place: Place, extent: Extent, coefficients: ptr<function, array<Coefficients, MOST_LANES_PER_SPAN>>) {
    var columns: array<u32, MOST_LANES_PER_SPAN>;
    var participates: array<bool, MOST_LANES_PER_SPAN>;
    for (var step = 0u; step < SPAN; step++) {
        let own = beside(place, step);
        columns[step] = own.column_unit;
        participates[step] = own.participates;
    }
    var first = first_row(place, extent);
    var row = extent.start;
    if row < extent.end {
        loop {
            for (var step = 0u; step < SPAN; step++) {
                let unit = first + columns[step];
                let values = mapped((*coefficients)[step], load_unit(unit));
                if participates[step] {
                    store_mapped(unit, values);
                }
            }
            first += params.row_units;
            row++;
            continuing {
                break if row >= extent.end;
            }
        }
    }
}
