// Adds up the partial gradient sums of each channel: dgamma, dbeta, and the means that the input gradient needs.
// A lane is a group of four channels, its positions walk the slots.

@group(0) @binding(10)
var<storage, read_write> partials: array<vec4<f32>>;
/// mean(g) of all channels at 0, mean(g·x̂) at `stride`.
@group(0) @binding(11)
var<storage, read_write> gradient_means: array<vec4<f32>>;
@group(0) @binding(12)
var<storage, read_write> gamma_gradient: array<f32>;
@group(0) @binding(13)
var<storage, read_write> beta_gradient: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = linear_group(workgroup, workgroups);
    if group >= params.groups {
        return;
    }
    let quads = params.stride / 4u;
    let lane = invocation % params.lanes;
    let position = invocation / params.lanes;
    let quad = group * params.lanes + lane;
    let participates = position < params.positions && quad < quads;

    var state = Accumulator(Normalizer(), vec4<f32>(), vec4<f32>());
    if participates {
        for (var slot = position; slot < params.slots; slot += params.positions) {
            let at = slot * 2u * quads + quad;
            state = merge(state, Accumulator(Normalizer(), partials[at], partials[at + quads]));
        }
    }
    let merged = merge_positions(state, lane, position, participates);
    if participates && position == 0u {
        gradient_means[quad] = mean_of(merged.sum);
        gradient_means[quads + quad] = mean_of(merged.product);
        for (var component = 0u; component < 4u; component++) {
            let channel = 4u * quad + component;
            if channel < params.channels {
                write_gradients(channel, merged.product[component], merged.sum[component]);
            }
        }
    }
}

fn write_gradients(channel: u32, gamma: f32, beta: f32) {
    if has(WANTS_GAMMA_GRADIENT) {
        if has(ACCUMULATES_GAMMA_GRADIENT) {
            gamma_gradient[channel] += gamma;
        } else {
            gamma_gradient[channel] = gamma;
        }
    }
    if has(WANTS_BETA_GRADIENT) {
        if has(ACCUMULATES_BETA_GRADIENT) {
            beta_gradient[channel] += beta;
        } else {
            beta_gradient[channel] = beta;
        }
    }
}
