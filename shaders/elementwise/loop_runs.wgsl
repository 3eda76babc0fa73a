// Maps what a place walks over, run by run.

fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    var row = first_row(place, extent);
    if row.index < extent.end {
        loop {
            var channel = 0u;
            loop {
                let begin = run_begin(channel);
                let end = run_begin(channel + 1u);
                apply_to_unit(row.unit + begin, picked_coefficients(coefficients, owners_at(4u * begin)), place);
                let own = picked_coefficients(coefficients, whole_owners(channel));
                var unit = begin + 1u;
                if unit < end {
                    loop {
                        apply_to_unit(row.unit + unit, own, place);
                        unit++;
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
            row = next_row(row);
            continuing {
                break if row.index >= extent.end;
            }
        }
    }
}

fn apply_to_unit(unit: u32, coefficients: Coefficients, place: Place) {
    let values = mapped(coefficients, load_unit(unit));
    if place.participates {
        store_mapped(unit, values);
    }
}
