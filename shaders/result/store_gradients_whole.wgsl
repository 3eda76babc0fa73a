// Stores the results of whole units.

fn store_mapped(unit: u32, values: Mapped) {
    if has(WANTS_INPUT_GRADIENT) {
        store_input_gradient(unit, values.dx);
    }
    if has(WANTS_RESIDUAL_GRADIENT) {
        store_residual_gradient(unit, values.dz);
    }
}
