// Stores the results of the elements with a true mask.

fn store_mapped_masked(unit: u32, values: Mapped, mask: vec4<bool>) {
    store_output_masked(unit, values.y, mask);
    store_signs_masked(unit, values.positive, mask);
}
