// The gradient means of a place's channels, as they were prepared.

fn means_at(channels: vec4<u32>) -> vec4<f32> {
    let at = params.channels + channels;
    return vec4<f32>(prepared[at.x].y, prepared[at.y].y, prepared[at.z].y, prepared[at.w].y);
}

fn product_means_at(channels: vec4<u32>) -> vec4<f32> {
    let at = params.channels + channels;
    return vec4<f32>(prepared[at.x].z, prepared[at.y].z, prepared[at.z].z, prepared[at.w].z);
}
