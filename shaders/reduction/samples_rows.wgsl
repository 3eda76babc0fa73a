// Where a pivot's samples are taken: rows.

/// Three elements of the channel, spread over the split; each in all components.
fn samples_of(place: Place, extent: Extent) -> array<vec4<f32>, 3> {
    let length = extent.end - extent.start;
    return array<vec4<f32>, 3>(
        sample(extent.start + length / 4u, place),
        sample(extent.start + length / 2u, place),
        sample(extent.start + 3u * (length / 4u) + 3u * (length % 4u) / 4u, place),
    );
}

/// The element at the start of a unit, or the row's last one.
fn sample(index: u32, place: Place) -> vec4<f32> {
    let row = (index / params.row_units) * params.outer_elements + place.first;
    let element = row + min(4u * (index % params.row_units), params.inner - 1u);
    let values = load_input(element / 4u);
    return vec4<f32>(values[element % 4u]);
}
