// Where a pivot's samples are taken: of the valid elements, whose places are recorded.

/// Three valid elements of each component's channel; the same for all splits.
fn samples_of(place: Place, extent: Extent) -> array<vec4<f32>, 3> {
    let channels = channels_of(place);
    let x = samples_at(channels.x);
    let y = samples_at(channels.y);
    let z = samples_at(channels.z);
    let w = samples_at(channels.w);
    return array<vec4<f32>, 3>(
        vec4<f32>(x.x, y.x, z.x, w.x),
        vec4<f32>(x.y, y.y, z.y, w.y),
        vec4<f32>(x.z, y.z, z.z, w.z),
    );
}

fn samples_at(channel: u32) -> vec3<f32> {
    let record = valid_record(segment_of(channel));
    if record.x == 0u {
        return vec3<f32>();
    }
    let first = first_element(channel);
    // None in the second half: the record's middle is past everything.
    return vec3<f32>(
        sample(first, record.y),
        sample(first, min(record.w, record.z)),
        sample(first, record.z),
    );
}

fn sample(first: u32, position: u32) -> f32 {
    let element = first + (position / params.inner) * params.outer_elements + position % params.inner;
    return load_input(element / 4u)[element % 4u];
}
