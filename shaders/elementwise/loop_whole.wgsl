// Maps what a place walks over, trip by trip.

/// Whether a unit is stored before the next one is loaded. Stores of a processor wait in a short queue, which empties meanwhile;
/// a GPU has more loads in flight where all come first.
override STORES_IN_TURN: bool;

/// Must be called in uniform control flow.
fn apply_to_place(place: Place, extent: Extent, coefficients: Coefficients) {
    let whole = whole_trips(extent);
    var walker = walk(place, extent);
    // As in the reduction, what needs no mask has a loop of its own, and conditions stand behind the bodies.
    if whole > 0u {
        var trip = 0u;
        loop {
            let units = take_units(&walker);
            var block: Block;
            if !STORES_IN_TURN {
                block = load_block(units);
            }
            apply_to_unit(units.x, coefficients, load_in_turn(units.x, block.a), place);
            apply_to_unit(units.y, coefficients, load_in_turn(units.y, block.b), place);
            apply_to_unit(units.z, coefficients, load_in_turn(units.z, block.c), place);
            apply_to_unit(units.w, coefficients, load_in_turn(units.w, block.d), place);
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

/// A unit that is loaded only now, or what was loaded before.
fn load_in_turn(unit: u32, loaded: Unit) -> Unit {
    if STORES_IN_TURN {
        return load_unit(unit);
    }
    return loaded;
}

fn apply_to_unit(unit: u32, coefficients: Coefficients, values: Unit, place: Place) {
    let results = mapped(coefficients, values);
    if place.participates {
        store_mapped(unit, results);
    }
}
