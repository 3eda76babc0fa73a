// What maps need of a channel: (gamma, beta, inverse deviation, pivot), and past those of all channels (offset, mean of h,
// mean of h·x̂, 0).

@group(0) @binding(21)
var<storage, read_write> prepared: array<vec4<f32>>;

fn write_normalizer(channel: u32, normalizer: vec3<f32>, gamma: f32, beta: f32) {
    prepared[channel] = vec4<f32>(gamma, beta, normalizer.z, normalizer.x);
    prepared[params.channels + channel] = vec4<f32>(normalizer.y, 0.0, 0.0, 0.0);
}

fn write_means(channel: u32, mean: f32, product_mean: f32) {
    let at = params.channels + channel;
    prepared[at] = vec4<f32>(prepared[at].x, mean, product_mean, 0.0);
}
