// One uniform block for every kernel; mirrored by `plan::Params` in the same order.

struct Params {
    /// Elements that are bound of each tensor.
    elements: u32,
    /// Their units: groups of four consecutive elements, the last one possibly partial.
    units: u32,
    /// Instances: what has a mean and a variance of its own, a channel of a segment. Kernels call them channels.
    channels: u32,
    /// Elements between two channels.
    inner: u32,
    /// Elements between two outer steps: channels · inner.
    outer_elements: u32,
    /// Workgroups that have work; the folded grid may hold more.
    groups: u32,
    /// Groups along the channels (rows, quads) or along the columns (columns); the others are splits.
    tiles: u32,
    /// What one workgroup serves side by side: channels (rows), column units (columns), groups of four channels (quads, finalize).
    lanes: u32,
    /// Invocations that share one lane.
    positions: u32,
    /// Invocations of a lane that take part in the second merge step.
    merge_groups: u32,
    /// Rows: units of one (outer, channel) row, cut-off ones at its ends included. Columns: units of a super-row. Quads: units
    /// of four such rows, as many as one of them has elements.
    row_units: u32,
    /// Rows: units of a channel. Columns: super-rows. Quads: units of four channels.
    extent: u32,
    /// The part of the extent that one split covers.
    split_extent: u32,
    /// Rows and quads: what one step of `positions` units goes on by: whole outer steps, in elements, and units.
    step_elements: u32,
    step_unit: u32,
    /// Trip count of the main loop; a trip takes four units.
    blocks: u32,
    /// Columns: repetitions of the channel sequence in a super-row.
    repeats: u32,
    /// Partials of a channel.
    slots: u32,
    flags: u32,
    epsilon: f32,
    /// 1 / M, and what rounding it to f32 left out.
    inverse_count: f32,
    inverse_count_residual: f32,
    /// Factor on the population variance that the running variance takes.
    variance_factor: f32,
    /// Weight of the new batch in the running statistics, and one minus it.
    weight_of_new: f32,
    weight_of_old: f32,
    /// Invocations of a lane that share the merge of its slots; 1 where each merges all slots by itself.
    slot_positions: u32,
    /// As `merge_groups`, for the merge of slots.
    slot_merge_groups: u32,
    /// Index of the first record in the partials: 0, or past the slots where they are merged already.
    partials_base: u32,
    /// Trips after which the invocations of a workgroup wait for each other; 0 if never.
    trips_in_step: u32,
    /// Index of the first record of channels' parameters in the partials, past everything else there.
    records_base: u32,
    /// Of a leaky ReLU.
    slope: f32,
    /// The tensor consists of parts, one after the other, with a channel each of their own; 1 but for sub-batches.
    part_channels: u32,
    part_elements: u32,
    /// Columns: tiles of a part.
    part_tiles: u32,
    /// Consecutive channels that share gamma and beta.
    steps: u32,
    /// Gammas and betas.
    parameter_channels: u32,
    /// Channels that share a gamma and a beta.
    segments: u32,
    /// Where the record of segment 0 stands in the valid elements' buffer, in records.
    valid_base: u32,
    /// Where the bits of the elements start in the valid elements' buffer, in words.
    valid_bits: u32,
    /// Where sequence and step stand among positions.
    sequence_stride: u32,
    sequence_length: u32,
    step_stride: u32,
    step_length: u32,
    /// Where the bits of the positions start in the valid elements' buffer, in words.
    position_bits: u32,
    /// Elements of a channel, padding included; the largest number where there are more.
    count: u32,
    /// A dispatch goes over a window of the tensor: where it begins among the elements that are bound.
    window_base: u32,
    /// The channels that have elements in the window.
    first_channel: u32,
    end_channel: u32,
    /// The first slot of the window's partials.
    slot_base: u32,
    /// The unit that the first bound one is to the activation mask that is bound, and to the bits of valid elements.
    mask_unit: u32,
    valid_unit: u32,
    /// Parts of a batch whose moments are given.
    parts: u32,
    /// Steps of the sequences before the first one of the tensor.
    first_step: u32,
}

const HAS_GAMMA: u32 = 1u;
const HAS_BETA: u32 = 2u;
const UPDATES_RUNNING: u32 = 8u;
const CUMULATIVE: u32 = 16u;
/// The caller keeps the batch statistics.
const SAVES_STATISTICS: u32 = 4u;
/// This dispatch increments the batch counter.
const COUNTS_BATCH: u32 = 32u;
const WANTS_GAMMA_GRADIENT: u32 = 64u;
const WANTS_BETA_GRADIENT: u32 = 128u;
const ACCUMULATES_GAMMA_GRADIENT: u32 = 256u;
const ACCUMULATES_BETA_GRADIENT: u32 = 512u;
/// A reduction leaves the channels' parameters beside the partials, for a dispatch that has no bindings left for them.
const RECORDS_PARAMETERS: u32 = 2048u;
/// Running statistics of a channel whose batch statistics are not finite are left as they are.
const GUARDS_RUNNING: u32 = 32768u;
/// The layer that batch norm is folded into has a bias.
const HAS_LAYER_BIAS: u32 = 65536u;
/// The running variance takes the unbiased variance.
const UNBIASED: u32 = 131072u;
/// Elements may be padding.
const HAS_VALID: u32 = 262144u;
/// The batch statistics are corrected towards the running ones.
const RENORMALIZES: u32 = 524288u;
/// Segments share the running statistics.
const SHARES_RUNNING: u32 = 1048576u;
/// They are updated once, with an average over segments; else by one segment after the other.
const AVERAGES_SEGMENTS: u32 = 2097152u;
/// Valid elements come from lengths of sequences; else from flags of positions.
const FROM_LENGTHS: u32 = 4194304u;
/// A single valid element updates the running statistics.
const UPDATES_FROM_ONE: u32 = 8388608u;

@group(0) @binding(0)
var<uniform> params: Params;

override WORKGROUP_SIZE: u32;

fn has(flag: u32) -> bool {
    return (params.flags & flag) != 0u;
}

/// The linear index of a workgroup in a grid that was folded to keep each dimension within its limit.
fn linear_group(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.y * workgroups.x + workgroup.x;
}
