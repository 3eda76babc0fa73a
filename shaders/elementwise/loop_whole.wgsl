// Maps what a place walks over, trip by trip.

/// Must be called in uniform control flow.
fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    let whole = whole_trips(extent);
    var walker = walk(place, extent);
    // As in the reduction, what needs no mask has a loop of its own, and conditions stand behind the bodies.
    if whole > 0u {
        var trip = 0u;
        loop {
            let units = take_units(&walker);
            let block = load_block(units);
            let a = mapped(coefficients, block.a);
            let b = mapped(coefficients, block.b);
            let c = mapped(coefficients, block.c);
            let d = mapped(coefficients, block.d);
            if place.participates {
                store_mapped(units.x, a);
                store_mapped(units.y, b);
                store_mapped(units.z, c);
                store_mapped(units.w, d);
            }
            keep_in_step(trip);
            trip++;
            continuing {
                break if trip >= whole;
            }
        }
    }
    if params.blocks > whole {
        var trip = whole;
        loop {
            let taken = take_trip(&walker, place, extent);
            apply_to_trip(taken, coefficients, load_block(taken.units));
            keep_in_step(trip);
            trip++;
            continuing {
                break if trip >= params.blocks;
            }
        }
    }
}
