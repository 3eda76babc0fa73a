// Stores the results of whole units.

fn store_mapped(unit: u32, values: Mapped) {
    store_input_gradient(unit, values.dx);
}
