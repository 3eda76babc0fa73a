// What maps need of a channel, as a dispatch before this one prepared it: (gamma, beta, inverse deviation, pivot), and past those of
// all channels (offset, mean of h, mean of h·x̂, 0).

@group(0) @binding(21)
var<storage, read> prepared: array<vec4<f32>>;

fn gammas_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(prepared[at.x].x, prepared[at.y].x, prepared[at.z].x, prepared[at.w].x);
}

fn betas_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(prepared[at.x].y, prepared[at.y].y, prepared[at.z].y, prepared[at.w].y);
}

/// (pivot, offset, inverse deviation).
fn normalizer_at(channel: u32) -> vec3<f32> {
    let first = prepared[channel];
    return vec3<f32>(first.w, prepared[params.channels + channel].x, first.z);
}
