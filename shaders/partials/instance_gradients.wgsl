// The gradient sums of the instances of a place's channels, added up over segments; `slots` counts those.

@group(0) @binding(26)
var<storage, read> instance_gamma_gradient: array<f32>;
@group(0) @binding(27)
var<storage, read> instance_beta_gradient: array<f32>;

/// Long chains of additions lose digits: sums of 32 segments are added to others of their kind, and those again.
const PER_LEVEL: u32 = 32u;

fn merge_slots(place: Place) -> Accumulator {
    let parameters = channels_of(place);
    let stride = params.slot_positions;
    var total = Accumulator(vec4<f32>(), vec4<f32>());
    for (var high = first_slot_group(place); high < params.slots; high += PER_LEVEL * PER_LEVEL * stride) {
        var many = Accumulator(vec4<f32>(), vec4<f32>());
        let end = min(high + PER_LEVEL * PER_LEVEL * stride, params.slots);
        for (var low = high; low < end; low += PER_LEVEL * stride) {
            var few = Accumulator(vec4<f32>(), vec4<f32>());
            for (var segment = low; segment < min(low + PER_LEVEL * stride, end); segment += stride) {
                few = merge(few, instances_at(segment, parameters));
            }
            many = merge(many, few);
        }
        total = merge(total, many);
    }
    return settle(total, place);
}

fn instances_at(segment: u32, parameters: vec4<u32>) -> Accumulator {
    return from_records(
        instance_at(segment, parameters.x),
        instance_at(segment, parameters.y),
        instance_at(segment, parameters.z),
        instance_at(segment, parameters.w),
    );
}

fn instance_at(segment: u32, parameter: u32) -> Record {
    let channel = channel_at(segment, parameter);
    let wants_gamma = has(WANTS_GAMMA_GRADIENT);
    let wants_beta = has(WANTS_BETA_GRADIENT);
    return Record(
        select(0.0, instance_beta_gradient[select(0u, channel, wants_beta)], wants_beta),
        select(0.0, instance_gamma_gradient[select(0u, channel, wants_gamma)], wants_gamma),
    );
}

fn slot_groups() -> u32 {
    return params.slots;
}

fn combine(value: Accumulator) -> Accumulator {
    return value;
}
