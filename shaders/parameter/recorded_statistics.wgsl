// Gamma and beta, as the reduction before this dispatch left them beside the partial statistics.

fn gammas_at(channels: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        partials[params.records_base + channels.x].x,
        partials[params.records_base + channels.y].x,
        partials[params.records_base + channels.z].x,
        partials[params.records_base + channels.w].x,
    );
}

fn betas_at(channels: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        partials[params.records_base + channels.x].y,
        partials[params.records_base + channels.y].y,
        partials[params.records_base + channels.z].y,
        partials[params.records_base + channels.w].y,
    );
}
