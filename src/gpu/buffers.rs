//! The slices of the caller's buffers that a step is bound to.
//!
//! All slices need `BufferUsages::STORAGE`, start at a multiple of the device's `min_storage_buffer_offset_alignment`
//! and have exactly the size of their role ([`Plan`](crate::Plan) tells it), but for the workspace, which may be longer.
//! Later versions may add optional parts, so prefer `TrainingBuffers { gamma: Some(gamma), ..TrainingBuffers::new(…) }` to
//! naming every field.
//!
//! Slices of one pooled buffer are fine as long as nothing written overlaps anything else.

use wgpu::BufferSlice;

/// What training forward reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct TrainingBuffers<'a> {
    /// x, M·C values, row-major in the plan's shape. Read.
    pub input: BufferSlice<'a>,
    /// y, M·C values. Overwritten.
    pub output: BufferSlice<'a>,
    /// γ (weight, scale), C values; absent means 1, which is also the usual start. Read.
    #[doc(alias = "weight")]
    #[doc(alias = "scale")]
    pub gamma: Option<BufferSlice<'a>>,
    /// β (bias, shift), C values; absent means 0, which is also the usual start. Read.
    #[doc(alias = "bias")]
    #[doc(alias = "shift")]
    pub beta: Option<BufferSlice<'a>>,
    /// Running statistics to update; absent: not tracked.
    pub running: Option<RunningStatistics<'a>>,
    /// C records of [`ChannelStatistics`](crate::ChannelStatistics) for backward. Overwritten. Absent: backward takes the
    /// statistics from the input again.
    pub saved: Option<BufferSlice<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes. Holds nothing between steps, so
    /// steps that run one after the other may share it.
    pub workspace: BufferSlice<'a>,
}

impl<'a> TrainingBuffers<'a> {
    /// Input, output and workspace, without any optional part.
    #[must_use]
    pub const fn new(input: BufferSlice<'a>, output: BufferSlice<'a>, workspace: BufferSlice<'a>) -> Self {
        Self { input, output, gamma: None, beta: None, running: None, saved: None, workspace }
    }
}

/// Running statistics that training updates.
#[derive(Clone, Copy, Debug)]
pub struct RunningStatistics<'a> {
    /// Running mean, C values, by custom 0 at first. Read and written.
    pub mean: BufferSlice<'a>,
    /// Running variance, C values, by custom 1 at first. Read and written.
    pub variance: BufferSlice<'a>,
    /// One `u32`, 0 at first: batches seen so far (PyTorch's `num_batches_tracked`). Incremented by every running update when given;
    /// needed by [`Momentum::CumulativeAverage`](crate::Momentum::CumulativeAverage).
    #[doc(alias = "num_batches_tracked")]
    pub batches_tracked: Option<BufferSlice<'a>>,
}

/// What inference reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct InferenceBuffers<'a> {
    /// x, M·C values. Read.
    pub input: BufferSlice<'a>,
    /// y, M·C values. Overwritten.
    pub output: BufferSlice<'a>,
    /// γ, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// β, C values; absent means 0. Read.
    pub beta: Option<BufferSlice<'a>>,
    /// The recorded mean, C values. Read.
    pub running_mean: BufferSlice<'a>,
    /// The recorded variance, C values. Read.
    pub running_variance: BufferSlice<'a>,
}

impl<'a> InferenceBuffers<'a> {
    /// Input, output and running statistics, without gamma and beta.
    #[must_use]
    pub const fn new(
        input: BufferSlice<'a>,
        output: BufferSlice<'a>,
        running_mean: BufferSlice<'a>,
        running_variance: BufferSlice<'a>,
    ) -> Self {
        Self { input, output, gamma: None, beta: None, running_mean, running_variance }
    }
}

/// A gradient to be written, and how.
#[derive(Clone, Copy, Debug)]
pub enum Gradient<'a> {
    /// The gradient replaces what the slice holds.
    Overwrite(BufferSlice<'a>),
    /// The gradient is added to what the slice holds.
    Accumulate(BufferSlice<'a>),
}

impl<'a> Gradient<'a> {
    pub(super) const fn slice(self) -> BufferSlice<'a> {
        match self {
            Self::Overwrite(slice) | Self::Accumulate(slice) => slice,
        }
    }

    pub(super) const fn accumulates(self) -> bool {
        matches!(self, Self::Accumulate(_))
    }
}

/// What backward through training statistics reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct BackwardBuffers<'a> {
    /// x as forward read it, M·C values. Read.
    pub input: BufferSlice<'a>,
    /// g = dL/dy, M·C values. Read.
    pub output_gradient: BufferSlice<'a>,
    /// γ, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// What forward saved, C records of [`ChannelStatistics`](crate::ChannelStatistics). Read. Absent: the statistics are
    /// taken from the input again, which costs one more pass over it.
    pub saved: Option<BufferSlice<'a>>,
    /// dL/dx, M·C values.
    pub input_gradient: Option<Gradient<'a>>,
    /// dL/dγ, C values.
    pub gamma_gradient: Option<Gradient<'a>>,
    /// dL/dβ, C values.
    pub beta_gradient: Option<Gradient<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes.
    pub workspace: BufferSlice<'a>,
}

impl<'a> BackwardBuffers<'a> {
    /// Input, output gradient and workspace; no gradient is asked for yet.
    #[must_use]
    pub const fn new(input: BufferSlice<'a>, output_gradient: BufferSlice<'a>, workspace: BufferSlice<'a>) -> Self {
        Self {
            input,
            output_gradient,
            gamma: None,
            saved: None,
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            workspace,
        }
    }
}

/// What backward through frozen statistics reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct FrozenBackwardBuffers<'a> {
    /// x as forward read it, M·C values; needed only if dγ is asked for. Read.
    pub input: Option<BufferSlice<'a>>,
    /// g = dL/dy, M·C values. Read.
    pub output_gradient: BufferSlice<'a>,
    /// γ, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// The mean that forward used, C values. Read.
    pub running_mean: BufferSlice<'a>,
    /// The variance that forward used, C values. Read.
    pub running_variance: BufferSlice<'a>,
    /// dL/dx, M·C values.
    pub input_gradient: Option<Gradient<'a>>,
    /// dL/dγ, C values.
    pub gamma_gradient: Option<Gradient<'a>>,
    /// dL/dβ, C values.
    pub beta_gradient: Option<Gradient<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes.
    pub workspace: BufferSlice<'a>,
}

impl<'a> FrozenBackwardBuffers<'a> {
    /// Output gradient, running statistics and workspace; no gradient is asked for yet.
    #[must_use]
    pub const fn new(
        output_gradient: BufferSlice<'a>,
        running_mean: BufferSlice<'a>,
        running_variance: BufferSlice<'a>,
        workspace: BufferSlice<'a>,
    ) -> Self {
        Self {
            input: None,
            output_gradient,
            gamma: None,
            running_mean,
            running_variance,
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            workspace,
        }
    }
}
