// Batch statistics: what a reduction does with the input.

@group(0) @binding(10)
var<storage, read_write> partials: array<f32>;

/// The pivot is the median of three samples inside the channel: near the data, and no single outlier can take it, nor can
/// outliers at both ends. Where the
/// samples lie about as far from each other as from 0, the pivot is 0: it costs no digits, and no rounding either. A
/// range that one far sample makes does not count as such.
fn begin(channels: vec4<u32>, first: vec4<f32>, middle: vec4<f32>, last: vec4<f32>) -> Accumulator {
    let lowest = min(min(first, middle), last);
    let highest = max(max(first, middle), last);
    let median = max(min(first, middle), min(max(first, middle), last));
    let range = highest - lowest;
    let gap = min(median - lowest, highest - median);
    let pivot = select(median, vec4<f32>(), (abs(median) <= range) & (range <= 64.0 * gap));
    return Accumulator(pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
}

/// Four whole units.
fn accumulate(state: Accumulator, units: vec4<u32>) -> Accumulator {
    let a = load_input(units.x) - state.pivot;
    let b = load_input(units.y) - state.pivot;
    let c = load_input(units.z) - state.pivot;
    let d = load_input(units.w) - state.pivot;
    let sum = (a + b) + (c + d);
    let mean = sum * 0.25;
    let da = a - mean;
    let db = b - mean;
    let dc = c - mean;
    let dd = d - mean;
    let m2 = (da * da + db * db) + (dc * dc + dd * dd);
    return merge_known_mean(state, Accumulator(state.pivot, vec4<f32>(4.0), sum, m2), mean);
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
    let one = vec4<f32>(1.0);
    let a = select(zero, load_input(units.x) - state.pivot, mask_a);
    let b = select(zero, load_input(units.y) - state.pivot, mask_b);
    let c = select(zero, load_input(units.z) - state.pivot, mask_c);
    let d = select(zero, load_input(units.w) - state.pivot, mask_d);
    let count = (select(zero, one, mask_a) + select(zero, one, mask_b))
        + (select(zero, one, mask_c) + select(zero, one, mask_d));
    let sum = (a + b) + (c + d);
    let mean = sum / max(count, one);
    let da = select(zero, a - mean, mask_a);
    let db = select(zero, b - mean, mask_b);
    let dc = select(zero, c - mean, mask_c);
    let dd = select(zero, d - mean, mask_d);
    let m2 = (da * da + db * db) + (dc * dc + dd * dd);
    return merge_known_mean(state, Accumulator(state.pivot, count, sum, m2), mean);
}

/// Layout of the partials: slot-major, then count, pivot, Σ(x − pivot), M2, then channels at `stride`.
fn write_partial(slot: u32, channel: u32, value: Accumulator, component: u32) {
    let at = slot * 4u * params.stride + channel;
    partials[at] = value.count[component];
    partials[at + params.stride] = value.pivot[component];
    partials[at + 2u * params.stride] = value.sum[component];
    partials[at + 3u * params.stride] = value.m2[component];
}
