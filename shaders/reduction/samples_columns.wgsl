// Where a pivot's samples are taken: columns.

/// Three elements of each component's channel, spread over the split; the same for all columns of a channel, so that they
/// share a pivot.
fn samples_of(place: Place, extent: Extent) -> array<vec4<f32>, 3> {
    let length = extent.end - extent.start;
    let last = extent.end - 1u;
    return array<vec4<f32>, 3>(
        sample(min(extent.start + length / 4u, last), place, params.inner / 4u),
        sample(min(extent.start + length / 2u, last), place, params.inner / 2u),
        sample(min(extent.start + 3u * (length / 4u) + 3u * (length % 4u) / 4u, last), place, 3u * params.inner / 4u),
    );
}

/// Element `within` of each channel's first run in a super-row, which exists even where the super-row is cut off.
fn sample(row: u32, place: Place, within: u32) -> vec4<f32> {
    if params.inner == 1u && params.repeats == 1u {
        return load_input(first_unit(place) + row * params.row_units + place.column_unit);
    }
    let elements = vec4<u32>(4u * (first_unit(place) + row * params.row_units) + within)
        + channels_in_part(place) * params.inner;
    return vec4<f32>(
        load_input(elements.x / 4u)[elements.x % 4u],
        load_input(elements.y / 4u)[elements.y % 4u],
        load_input(elements.z / 4u)[elements.z % 4u],
        load_input(elements.w / 4u)[elements.w % 4u],
    );
}
