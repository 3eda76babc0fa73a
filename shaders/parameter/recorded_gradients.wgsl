// Gamma, beta, and what x was normalised with, as the dispatch before this one left them beside the partial gradient sums.

fn recorded_at(channels: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(params.records_base) + 3u * channels;
}

fn gammas_at(channels: vec4<u32>) -> vec4<f32> {
    let at = recorded_at(channels);
    return vec4<f32>(partials[at.x].x, partials[at.y].x, partials[at.z].x, partials[at.w].x);
}

fn betas_at(channels: vec4<u32>) -> vec4<f32> {
    let at = recorded_at(channels);
    return vec4<f32>(partials[at.x].y, partials[at.y].y, partials[at.z].y, partials[at.w].y);
}

/// (pivot, offset, inverse deviation).
fn normalizer_at(channel: u32) -> vec3<f32> {
    let at = params.records_base + 3u * channel;
    return vec3<f32>(partials[at + 1u], partials[at + 2u].x);
}
