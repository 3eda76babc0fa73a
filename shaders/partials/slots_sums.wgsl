// The gradient sums of parts, part after part, of a place with a channel a component: one part of each at once, in the place
// of a slot.

/// Σh, Σh·x̂.
@group(0) @binding(28)
var<storage, read> gradient_sums: array<vec2<f32>>;

fn slot_groups() -> u32 {
    return params.slots;
}

fn slots_at(part: u32, channels: vec4<u32>) -> Accumulator {
    let at = vec4<u32>(part * params.channels) + channels;
    return from_records(gradient_sums[at.x], gradient_sums[at.y], gradient_sums[at.z], gradient_sums[at.w]);
}

fn combine(value: Accumulator) -> Accumulator {
    return value;
}
