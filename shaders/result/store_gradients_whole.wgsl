// Stores the results of whole units.

fn store_mapped(unit: u32, values: Mapped) {
    if INPUT_GRADIENT != OMITTED {
        store_input_gradient(unit, values.dx);
    }
    if RESIDUAL_GRADIENT != OMITTED {
        store_residual_gradient(unit, values.dz);
    }
}
