// How channels, as kernels call what has statistics of its own, lie in the tensor, and which gamma and beta they have.

/// The first element of a channel of the window, among those that are bound.
fn first_element(channel: u32) -> u32 {
    let within = channel - params.first_channel;
    let part = within / params.part_channels;
    return params.window_base + part * params.part_elements + (within - part * params.part_channels) * params.inner;
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
