// Gamma, or 1 where the caller has none (then a placeholder of one value is bound).

@group(0) @binding(8)
var<storage, read> gamma: array<f32>;

fn gamma_at(channel: u32) -> f32 {
    let index = select(0u, parameter_of(channel), has(HAS_GAMMA));
    return select(1.0, gamma[index], has(HAS_GAMMA));
}

fn gammas_at(channels: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(gamma_at(channels.x), gamma_at(channels.y), gamma_at(channels.z), gamma_at(channels.w));
}
