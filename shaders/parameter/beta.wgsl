// Beta, or 0 where the caller has none (then a placeholder of one value is bound).

@group(0) @binding(9)
var<storage, read> beta: array<f32>;

fn beta_at(channel: u32) -> f32 {
    let index = select(0u, parameter_of(channel), has(HAS_BETA));
    return select(0.0, beta[index], has(HAS_BETA));
}

fn betas_at(channels: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(beta_at(channels.x), beta_at(channels.y), beta_at(channels.z), beta_at(channels.w));
}
