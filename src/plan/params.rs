//! The uniform block of every kernel.

/// Mirror of `Params` in `shaders/common/params.wgsl`, which documents the fields; a test compares the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    pub elements: u32,
    pub units: u32,
    pub channels: u32,
    pub inner: u32,
    pub outer_elements: u32,
    pub groups: u32,
    pub tiles: u32,
    pub lanes: u32,
    pub positions: u32,
    pub merge_groups: u32,
    pub row_units: u32,
    pub extent: u32,
    pub split_extent: u32,
    pub step_elements: u32,
    pub step_unit: u32,
    pub blocks: u32,
    pub repeats: u32,
    pub slots: u32,
    pub flags: u32,
    pub epsilon: f32,
    pub inverse_count: f32,
    pub inverse_count_residual: f32,
    pub variance_factor: f32,
    pub weight_of_new: f32,
    pub weight_of_old: f32,
    pub slot_positions: u32,
    pub slot_merge_groups: u32,
    pub partials_base: u32,
    pub trips_in_step: u32,
    pub records_base: u32,
    pub slope: f32,
    pub part_channels: u32,
    pub part_elements: u32,
    pub part_tiles: u32,
    pub steps: u32,
    pub parameter_channels: u32,
    pub segments: u32,
    pub valid_base: u32,
    pub valid_bits: u32,
    pub sequence_stride: u32,
    pub sequence_length: u32,
    pub step_stride: u32,
    pub step_length: u32,
    pub position_bits: u32,
    pub count: u32,
    pub window_base: u32,
    pub first_channel: u32,
    pub end_channel: u32,
    pub slot_base: u32,
    pub mask_unit: u32,
    pub valid_unit: u32,
    pub parts: u32,
    pub first_step: u32,
}

impl Params {
    /// Bytes that are bound of a block: GLSL's std140 takes a struct for a multiple of 16.
    pub(crate) const BINDING_SIZE: u64 = (size_of::<Self>() as u64).next_multiple_of(16);
    pub(crate) const HAS_GAMMA: u32 = 1;
    pub(crate) const HAS_BETA: u32 = 2;
    pub(crate) const SAVES_STATISTICS: u32 = 4;
    pub(crate) const UPDATES_RUNNING: u32 = 8;
    pub(crate) const CUMULATIVE: u32 = 16;
    pub(crate) const COUNTS_BATCH: u32 = 32;
    pub(crate) const WANTS_GAMMA_GRADIENT: u32 = 64;
    pub(crate) const WANTS_BETA_GRADIENT: u32 = 128;
    pub(crate) const ACCUMULATES_GAMMA_GRADIENT: u32 = 256;
    pub(crate) const ACCUMULATES_BETA_GRADIENT: u32 = 512;
    pub(crate) const RECORDS_PARAMETERS: u32 = 2048;
    pub(crate) const GUARDS_RUNNING: u32 = 32768;
    pub(crate) const HAS_LAYER_BIAS: u32 = 65536;
    pub(crate) const UNBIASED: u32 = 131_072;
    pub(crate) const HAS_VALID: u32 = 1 << 18;
    pub(crate) const RENORMALIZES: u32 = 1 << 19;
    pub(crate) const SHARES_RUNNING: u32 = 1 << 20;
    pub(crate) const AVERAGES_SEGMENTS: u32 = 1 << 21;
    pub(crate) const FROM_LENGTHS: u32 = 1 << 22;
    pub(crate) const UPDATES_FROM_ONE: u32 = 1 << 23;
}
