// The health of a channel, from its record.

@group(0) @binding(17)
var<storage, read_write> health: array<u32>;

const NON_FINITE: u32 = 1u;
const ZERO_VARIANCE: u32 = 2u;

fn visit_channel(channel: u32) {
    let record = statistics[channel];
    let finite = is_finite(record.x + record.y) && is_finite(record.w);
    health[channel] = select(NON_FINITE, 0u, finite) | select(0u, ZERO_VARIANCE, record.w == 0.0);
}
