// Where a pivot's samples are taken: quads.

/// Three elements of each component's channel, at the same places of all four, spread over the split.
fn samples_of(place: Place, extent: Extent) -> array<vec4<f32>, 3> {
    let length = extent.end - extent.start;
    return array<vec4<f32>, 3>(
        sample(extent.start + length / 4u, place),
        sample(extent.start + length / 2u, place),
        sample(extent.start + 3u * (length / 4u) + 3u * (length % 4u) / 4u, place),
    );
}

/// A quad's row has as many units as each of its channels has elements there.
fn sample(index: u32, place: Place) -> vec4<f32> {
    let row = (index / params.inner) * params.outer_elements + place.first;
    let elements = vec4<u32>(row + index % params.inner) + params.inner * vec4<u32>(0u, 1u, 2u, 3u);
    return vec4<f32>(
        load_input(elements.x / 4u)[elements.x % 4u],
        load_input(elements.y / 4u)[elements.y % 4u],
        load_input(elements.z / 4u)[elements.z % 4u],
        load_input(elements.w / 4u)[elements.w % 4u],
    );
}
