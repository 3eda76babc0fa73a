// One uniform block for every kernel; mirrored by `plan::Params` in the same order.

struct Params {
    /// Elements of the tensor.
    elements: u32,
    /// Units of the tensor: groups of four consecutive elements, the last one possibly partial.
    units: u32,
    channels: u32,
    /// Elements between two channels.
    inner: u32,
    /// Distance between two fields of a partial, in channels: the channel count rounded up to four.
    stride: u32,
    /// Workgroups that have work; the folded grid may hold more.
    groups: u32,
    /// Groups along the channels (rows) or along the columns (columns); the others are splits.
    tiles: u32,
    /// Channels (rows, finalize: groups of four) or column units (columns) that one workgroup serves side by side.
    lanes: u32,
    /// Invocations that share one lane.
    positions: u32,
    /// Invocations of a lane that take part in the second merge step.
    merge_groups: u32,
    /// Rows: units of one (outer, channel) row, cut-off ones at its ends included. Columns: units of a super-row.
    row_units: u32,
    /// Rows: units of a channel. Columns: super-rows.
    extent: u32,
    /// The part of the extent that one split covers.
    split_extent: u32,
    /// Rows: the walk of one step, `positions / row_units` and `positions % row_units`.
    step_outer: u32,
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
    padding_0: u32,
    padding_1: u32,
    padding_2: u32,
}

const HAS_GAMMA: u32 = 1u;
const HAS_BETA: u32 = 2u;
const UPDATES_RUNNING: u32 = 8u;
const CUMULATIVE: u32 = 16u;
/// Rows start at multiples of four elements, so no unit belongs to two channels.
const ALIGNED_ROWS: u32 = 32u;
const WANTS_GAMMA_GRADIENT: u32 = 64u;
const WANTS_BETA_GRADIENT: u32 = 128u;
const ACCUMULATES_GAMMA_GRADIENT: u32 = 256u;
const ACCUMULATES_BETA_GRADIENT: u32 = 512u;
const ACCUMULATES_INPUT_GRADIENT: u32 = 1024u;

@group(0) @binding(0)
var<uniform> params: Params;

override WORKGROUP_SIZE: u32;

fn has(flag: u32) -> bool {
    return (params.flags & flag) != 0u;
}

/// A sum over M elements divided by M; one rounding where `fma` is fused, two elsewhere.
fn mean_of(sum: vec4<f32>) -> vec4<f32> {
    return fma(sum, vec4<f32>(params.inverse_count), sum * params.inverse_count_residual);
}

/// The linear index of a workgroup in a grid that was folded to keep each dimension within its limit.
fn linear_group(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.y * workgroups.x + workgroup.x;
}
