// Stores the results of the elements with a true mask.

fn store_mapped_masked(unit: u32, values: Mapped, mask: vec4<bool>) {
    if has(WANTS_INPUT_GRADIENT) {
        store_input_gradient_masked(unit, values.dx, mask);
    }
    if has(WANTS_RESIDUAL_GRADIENT) {
        store_residual_gradient_masked(unit, values.dz, mask);
    }
}
