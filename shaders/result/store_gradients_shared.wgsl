// Stores the results of the elements with a true mask.

fn store_mapped_masked(unit: u32, values: Mapped, mask: vec4<bool>) {
    if INPUT_GRADIENT != OMITTED {
        store_input_gradient_masked(unit, values.dx, mask);
    }
    if RESIDUAL_GRADIENT != OMITTED {
        store_residual_gradient_masked(unit, values.dz, mask);
    }
}
