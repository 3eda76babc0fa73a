// Gradient sums: what a reduction does with the output gradient and the input.

@group(0) @binding(10)
var<storage, read_write> partials: array<f32>;

fn begin(channels: vec4<u32>, first: vec4<f32>, middle: vec4<f32>, last: vec4<f32>) -> Accumulator {
    return Accumulator(normalizers_at(channels), vec4<f32>(), vec4<f32>());
}

/// Four whole units.
fn accumulate(state: Accumulator, units: vec4<u32>) -> Accumulator {
    let gradient_a = load_output_gradient(units.x);
    let gradient_b = load_output_gradient(units.y);
    let gradient_c = load_output_gradient(units.z);
    let gradient_d = load_output_gradient(units.w);
    let a = gradient_a * normalized(state.normalizer, load_input(units.x));
    let b = gradient_b * normalized(state.normalizer, load_input(units.y));
    let c = gradient_c * normalized(state.normalizer, load_input(units.z));
    let d = gradient_d * normalized(state.normalizer, load_input(units.w));
    return Accumulator(
        state.normalizer,
        state.sum + ((gradient_a + gradient_b) + (gradient_c + gradient_d)),
        state.product + ((a + b) + (c + d)),
    );
}

/// Four units of which only the components with a true mask belong to the channel.
fn accumulate_masked(
    state: Accumulator,
    units: vec4<u32>,
    mask_a: vec4<bool>,
    mask_b: vec4<bool>,
    mask_c: vec4<bool>,
    mask_d: vec4<bool>,
) -> Accumulator {
    // Selection, not multiplication: a masked component may hold another channel's NaN.
    let zero = vec4<f32>();
    let gradient_a = select(zero, load_output_gradient(units.x), mask_a);
    let gradient_b = select(zero, load_output_gradient(units.y), mask_b);
    let gradient_c = select(zero, load_output_gradient(units.z), mask_c);
    let gradient_d = select(zero, load_output_gradient(units.w), mask_d);
    let a = select(zero, gradient_a * normalized(state.normalizer, load_input(units.x)), mask_a);
    let b = select(zero, gradient_b * normalized(state.normalizer, load_input(units.y)), mask_b);
    let c = select(zero, gradient_c * normalized(state.normalizer, load_input(units.z)), mask_c);
    let d = select(zero, gradient_d * normalized(state.normalizer, load_input(units.w)), mask_d);
    return Accumulator(
        state.normalizer,
        state.sum + ((gradient_a + gradient_b) + (gradient_c + gradient_d)),
        state.product + ((a + b) + (c + d)),
    );
}

/// Layout of the partials: slot-major, then Σg, Σg·x̂, then channels at `stride`.
fn write_partial(slot: u32, channel: u32, value: Accumulator, component: u32) {
    let at = slot * 2u * params.stride + channel;
    partials[at] = value.sum[component];
    partials[at + params.stride] = value.product[component];
}
