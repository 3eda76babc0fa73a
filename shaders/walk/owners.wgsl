// Whose the elements of a unit of a quad are, and what follows for values by channel.

/// Which channels of its quad a unit's elements are of.
struct Owners {
    /// That of the first element.
    channel: u32,
    /// The elements of that channel; the others are of the next one.
    own: vec4<bool>,
}

/// Of a unit whose first element lies so far past the first of its row of the quad.
fn owners_at(offset: u32) -> Owners {
    let channel = select(0u, 1u, offset >= params.inner)
        + select(0u, 1u, offset >= 2u * params.inner)
        + select(0u, 1u, offset >= 3u * params.inner);
    let left = (channel + 1u) * params.inner - offset;
    return Owners(channel, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

/// Of values of the four channels, each element's.
fn picked(values: vec4<f32>, owners: Owners) -> vec4<f32> {
    let odd = (owners.channel & 1u) != 0u;
    let upper = owners.channel >= 2u;
    let own = select(select(values.x, values.y, odd), select(values.z, values.w, odd), upper);
    let next = select(select(values.y, values.z, odd), values.w, upper);
    return select(vec4<f32>(next), vec4<f32>(own), owners.own);
}

/// The sum of a unit's elements, by channel. Selection, not multiplication: another channel may have a NaN.
fn summed(values: vec4<f32>, owners: Owners) -> vec4<f32> {
    let own = select(vec4<f32>(), values, owners.own);
    let next = select(values, vec4<f32>(), owners.own);
    let own_sum = (own.x + own.y) + (own.z + own.w);
    let next_sum = (next.x + next.y) + (next.z + next.w);
    let channels = vec4<u32>(0u, 1u, 2u, 3u);
    return select(
        select(vec4<f32>(), vec4<f32>(next_sum), channels == vec4<u32>(owners.channel + 1u)),
        vec4<f32>(own_sum),
        channels == vec4<u32>(owners.channel),
    );
}
