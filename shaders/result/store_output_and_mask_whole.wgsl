// Stores the results of whole units.

fn store_mapped(unit: u32, values: Mapped) {
    store_output(unit, values.y);
    store_signs_masked(unit, values.positive, vec4<bool>(true));
}
