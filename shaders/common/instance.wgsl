// How channels, as kernels call what has statistics of its own, lie in the tensor, and which gamma and beta they have.

/// The part of the tensor that a channel lies in.
fn part_of(channel: u32) -> u32 {
    return channel / params.part_channels;
}

fn first_element(channel: u32) -> u32 {
    let part = part_of(channel);
    return part * params.part_elements + (channel - part * params.part_channels) * params.inner;
}

/// Where gamma and beta of a channel stand.
fn parameter_of(channel: u32) -> u32 {
    return (channel / params.steps) % params.parameter_channels;
}

fn segment_of(channel: u32) -> u32 {
    return select(channel % params.steps, channel / params.parameter_channels, params.steps == 1u);
}

/// The channel of a segment that has a gamma and a beta.
fn channel_at(segment: u32, parameter: u32) -> u32 {
    return select(
        parameter * params.steps + segment,
        segment * params.parameter_channels + parameter,
        params.steps == 1u,
    );
}
