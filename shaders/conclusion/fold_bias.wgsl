// The bias of a layer that batch norm is folded into: b' = (b − mean) · r · gamma + beta.

@group(0) @binding(18)
var<storage, read> layer_bias: array<f32>;
@group(0) @binding(19)
var<storage, read_write> folded_bias: array<f32>;

fn visit_channel(channel: u32) {
    let index = select(0u, channel, has(HAS_LAYER_BIAS));
    let bias = select(0.0, layer_bias[index], has(HAS_LAYER_BIAS));
    let normalizer = normalizer_at(channel);
    // The rounding of inference itself.
    folded_bias[channel] = ((bias - normalizer.x) * normalizer.z) * gamma_at(channel) + beta_at(channel);
}
