//! The slices of the caller's buffers that a step is bound to.
//!
//! All slices need `BufferUsages::STORAGE`, start at a multiple of the device's `min_storage_buffer_offset_alignment`
//! and have exactly the size of their role ([`Plan`](crate::Plan) tells it), but for the workspace, which may be longer.
//! Later versions may add optional parts, so prefer `TrainingBuffers { gamma: Some(gamma), ..TrainingBuffers::new(…) }` to
//! naming every field.
//!
//! Slices of one pooled buffer are fine as long as nothing written overlaps anything else, with one exception: a result may
//! be given exactly the slice of the tensor that it replaces, `output` that of `input`, and `input_gradient` that of
//! `output_gradient`. The operation then works in place, which saves [`Plan::tensor_size`](crate::Plan::tensor_size) bytes.
//!
//! Tensors (x, y, the residual and their gradients) have the descriptor's element type, everything else is `f32` or `u32`.
//!
//! Where a batch has segments ([`Segmentation`](crate::Segmentation)), gamma, beta and their gradients still have C values;
//! what is said to be a record a channel is a record an instance, and running statistics have a value an instance if segments
//! have their own ([`SegmentRunning`](crate::SegmentRunning)).

use wgpu::BufferSlice;

use crate::SequenceAxes;

/// What training forward reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct TrainingBuffers<'a> {
    /// x, M·C values, row-major in the plan's shape. Read.
    pub input: BufferSlice<'a>,
    /// y, M·C values. Overwritten. May be the slice of `input`; then x is lost, and backward with it unless x is made again.
    pub output: BufferSlice<'a>,
    /// z, M·C values, added before the activation; absent: none. Read.
    pub residual: Option<BufferSlice<'a>>,
    /// One bit an element, [`Plan::mask_size`](crate::Plan::mask_size) bytes: bit e % 32 of word e / 32 is set where the
    /// pre-activation of element e is positive. For [`ActivationState::Mask`]; other ways cost less where y or x is kept
    /// anyway. Overwritten, but for bits past the last element, which mean nothing.
    pub activation_mask: Option<BufferSlice<'a>>,
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
    /// One [`ChannelHealth`](crate::ChannelHealth) a channel. Overwritten. Costs a small dispatch, but no pass over the tensor.
    pub health: Option<BufferSlice<'a>>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
    /// Batch renormalization; needs `running`. Absent: none.
    pub renormalization: Option<Renormalization<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes. Holds nothing between steps, so
    /// steps that run one after the other may share it.
    pub workspace: BufferSlice<'a>,
}

impl<'a> TrainingBuffers<'a> {
    /// Input, output and workspace, without any optional part.
    #[must_use]
    pub const fn new(input: BufferSlice<'a>, output: BufferSlice<'a>, workspace: BufferSlice<'a>) -> Self {
        Self {
            input,
            output,
            residual: None,
            activation_mask: None,
            gamma: None,
            beta: None,
            running: None,
            saved: None,
            health: None,
            valid: None,
            renormalization: None,
            workspace,
        }
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

/// Batch renormalization (Ioffe, arXiv 1702.03275): the batch's statistics are corrected towards the running ones, as those
/// were before the step, so that small batches train on what inference will use.
///
/// ```text
/// R = clamp(σ_B/σ, 1/r_max, r_max)      D = clamp((μ_B − μ)/σ, −d_max, d_max)      y = f(γ·(x̂·R + D) + β + z)
/// ```
///
/// with `σ = √(running_variance + ε)`. R and D are constants to backward. With both limits at 1 and 0 this is batch
/// normalization; by custom they grow over training to about 3 and 5. Where forward is computed twice
/// ([`TrainingStep`](crate::TrainingStep)), let the last one update: both then see the same running statistics.
#[derive(Clone, Copy, Debug)]
pub struct Renormalization<'a> {
    /// `r_max` ≥ 1 and `d_max` ≥ 0, two values. Read, so that a program can change them without binding anew.
    pub limits: BufferSlice<'a>,
    /// R and D for backward, one [`ChannelRenormalization`](crate::ChannelRenormalization) a channel. Overwritten.
    pub saved: BufferSlice<'a>,
}

/// Where a padded batch has data.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ValidSource<'a> {
    /// Sequences of unequal length: steps from a sequence's length on are padding.
    Lengths {
        /// One `u32` a sequence. Read.
        lengths: BufferSlice<'a>,
        /// Which dimensions of the shape count sequences and steps.
        axes: SequenceAxes,
    },
    /// The same where the tensor has a run of the sequences' steps, so that lengths serve every chunk of long sequences, and every
    /// step of a recurrent layer: a step alone has the shape (1, N, C) and `{ sequence: 1, step: 0 }`.
    LengthsFrom {
        /// One `u32` a sequence, of the whole sequence. Read.
        lengths: BufferSlice<'a>,
        /// Which dimensions of the shape count sequences and steps.
        axes: SequenceAxes,
        /// Steps of the sequences before the tensor's first.
        first_step: u32,
    },
    /// One `u32` a position, an element of one channel, in the order of the tensor; 0 for padding. (N,T) for tensors (N,T,C)
    /// and (N,C,T), (N,H,W) for images. Read.
    Flags(BufferSlice<'a>),
}

/// What [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct ValidBuffers<'a> {
    /// Lengths or flags.
    pub source: ValidSource<'a>,
    /// [`Plan::valid_size`](crate::Plan::valid_size) bytes. Overwritten: for each segment of training, then for the whole batch
    /// if segments share running statistics, four `u32` (valid elements; then, as indices among the segment's positions, the
    /// first of them, the last, and the first in the second half); then a bit an element, bit e % 32 of word e / 32; then a
    /// bit a position.
    pub valid: BufferSlice<'a>,
}

/// What inference reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct InferenceBuffers<'a> {
    /// x, M·C values. Read.
    pub input: BufferSlice<'a>,
    /// y, M·C values. Overwritten. May be the slice of `input`.
    pub output: BufferSlice<'a>,
    /// z, M·C values, added before the activation; absent: none. Read.
    pub residual: Option<BufferSlice<'a>>,
    /// As [`TrainingBuffers::activation_mask`], for a backward through frozen statistics.
    pub activation_mask: Option<BufferSlice<'a>>,
    /// γ, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// β, C values; absent means 0. Read.
    pub beta: Option<BufferSlice<'a>>,
    /// The recorded mean, C values. Read.
    pub running_mean: BufferSlice<'a>,
    /// The recorded variance, C values. Read.
    pub running_variance: BufferSlice<'a>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
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
        Self {
            input,
            output,
            residual: None,
            activation_mask: None,
            gamma: None,
            beta: None,
            running_mean,
            running_variance,
            valid: None,
        }
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

/// What backward is given of forward's activation, to take its derivative from; see
/// [`ActivationSource`](crate::ActivationSource) and [`Plan::activation_cost`](crate::Plan::activation_cost). Without an
/// activation it does not matter.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ActivationState<'a> {
    /// The derivative at a pre-activation that is computed again from x, the statistics, gamma and beta.
    Recompute {
        /// z, M·C values; it must be given if forward added one. Read.
        residual: Option<BufferSlice<'a>>,
    },
    /// y, M·C values, for the sign of the pre-activation. Read.
    Output(BufferSlice<'a>),
    /// What forward wrote to `activation_mask`. Read.
    Mask(BufferSlice<'a>),
}

impl Default for ActivationState<'_> {
    /// Recomputed, without a residual.
    fn default() -> Self {
        Self::Recompute { residual: None }
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
    /// β, C values; absent means 0. Read only where an activation is recomputed.
    pub beta: Option<BufferSlice<'a>>,
    /// What the activation's derivative is taken from.
    pub activation: ActivationState<'a>,
    /// What forward saved, C records of [`ChannelStatistics`](crate::ChannelStatistics). Read. Absent: the statistics are
    /// taken from the input again, which costs one more pass over it.
    pub saved: Option<BufferSlice<'a>>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
    /// What forward saved of batch renormalization, one [`ChannelRenormalization`](crate::ChannelRenormalization) a channel;
    /// absent: it did none. Read.
    pub renormalization: Option<BufferSlice<'a>>,
    /// dL/dx, M·C values. May overwrite the slice of `output_gradient`.
    pub input_gradient: Option<Gradient<'a>>,
    /// dL/dz, M·C values: the output gradient back through the activation.
    pub residual_gradient: Option<Gradient<'a>>,
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
            beta: None,
            activation: ActivationState::Recompute { residual: None },
            saved: None,
            valid: None,
            renormalization: None,
            input_gradient: None,
            residual_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            workspace,
        }
    }

    /// The same with gradients of gamma and beta that add to what their slices hold: for the micro-batches of a step after the
    /// first.
    #[must_use]
    pub const fn accumulating_parameters(mut self) -> Self {
        if let Some(gradient) = self.gamma_gradient {
            self.gamma_gradient = Some(Gradient::Accumulate(gradient.slice()));
        }
        if let Some(gradient) = self.beta_gradient {
            self.beta_gradient = Some(Gradient::Accumulate(gradient.slice()));
        }
        self
    }
}

/// What backward through frozen statistics reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct FrozenBackwardBuffers<'a> {
    /// x as forward read it, M·C values; needed only if dγ is asked for or an activation recomputed. Read.
    pub input: Option<BufferSlice<'a>>,
    /// g = dL/dy, M·C values. Read.
    pub output_gradient: BufferSlice<'a>,
    /// γ, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// β, C values; absent means 0. Read only where an activation is recomputed.
    pub beta: Option<BufferSlice<'a>>,
    /// What the activation's derivative is taken from.
    pub activation: ActivationState<'a>,
    /// The mean that forward used, C values. Read.
    pub running_mean: BufferSlice<'a>,
    /// The variance that forward used, C values. Read.
    pub running_variance: BufferSlice<'a>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
    /// dL/dx, M·C values. May overwrite the slice of `output_gradient`.
    pub input_gradient: Option<Gradient<'a>>,
    /// dL/dz, M·C values: the output gradient back through the activation.
    pub residual_gradient: Option<Gradient<'a>>,
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
            beta: None,
            activation: ActivationState::Recompute { residual: None },
            running_mean,
            running_variance,
            valid: None,
            input_gradient: None,
            residual_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            workspace,
        }
    }
}

/// What folding reads and writes on the device. The plan's shape is that of the weights, with the output channel as the
/// channel: `Shape::flat(1, O, I·kh·kw)` for weights `[O, I, kh, kw]`, `Shape::flat(kh·kw·I, O, 1)` for `[kh, kw, I, O]`.
#[derive(Clone, Copy, Debug)]
pub struct FoldBuffers<'a> {
    /// W, of the descriptor's element type. Read.
    pub weight: BufferSlice<'a>,
    /// b, C values; absent means 0. Read.
    pub bias: Option<BufferSlice<'a>>,
    /// γ, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// β, C values; absent means 0. Read.
    pub beta: Option<BufferSlice<'a>>,
    /// The recorded mean, C values. Read.
    pub running_mean: BufferSlice<'a>,
    /// The recorded variance, C values. Read.
    pub running_variance: BufferSlice<'a>,
    /// W'. Overwritten. May be the slice of `weight`.
    pub folded_weight: BufferSlice<'a>,
    /// b', C values. Overwritten.
    pub folded_bias: BufferSlice<'a>,
}

impl<'a> FoldBuffers<'a> {
    /// Weights, running statistics and results, without a bias, gamma and beta.
    #[must_use]
    pub const fn new(
        weight: BufferSlice<'a>,
        running_mean: BufferSlice<'a>,
        running_variance: BufferSlice<'a>,
        folded_weight: BufferSlice<'a>,
        folded_bias: BufferSlice<'a>,
    ) -> Self {
        Self { weight, bias: None, gamma: None, beta: None, running_mean, running_variance, folded_weight, folded_bias }
    }
}

/// What accumulating the statistics of a batch reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct AccumulateBuffers<'a> {
    /// x, M·C values. Read.
    pub input: BufferSlice<'a>,
    /// C records of [`ChannelMoments`](crate::ChannelMoments), zero before the first batch. Read and written.
    pub moments: BufferSlice<'a>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes.
    pub workspace: BufferSlice<'a>,
}

/// What taking the statistics of a population reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct PopulationBuffers<'a> {
    /// C records of [`ChannelMoments`](crate::ChannelMoments). Read.
    pub moments: BufferSlice<'a>,
    /// C values. Overwritten, but for channels without a sample.
    pub running_mean: BufferSlice<'a>,
    /// C values. Overwritten, but for channels without a sample.
    pub running_variance: BufferSlice<'a>,
}

/// What backward from the output reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct OutputBackwardBuffers<'a> {
    /// y as forward wrote it, M·C values. Read.
    pub output: BufferSlice<'a>,
    /// g = dL/dy, M·C values. Read.
    pub output_gradient: BufferSlice<'a>,
    /// γ as forward used it, C values; absent means 1. Read.
    pub gamma: Option<BufferSlice<'a>>,
    /// β as forward used it, C values; absent means 0. Read.
    pub beta: Option<BufferSlice<'a>>,
    /// What forward saved, C records of [`ChannelStatistics`](crate::ChannelStatistics). Read.
    pub saved: BufferSlice<'a>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
    /// dL/dx, M·C values. May overwrite the slice of `output_gradient`.
    pub input_gradient: Option<Gradient<'a>>,
    /// dL/dγ, C values.
    pub gamma_gradient: Option<Gradient<'a>>,
    /// dL/dβ, C values.
    pub beta_gradient: Option<Gradient<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes.
    pub workspace: BufferSlice<'a>,
}

impl<'a> OutputBackwardBuffers<'a> {
    /// Output, output gradient, saved statistics and workspace; no gradient is asked for yet.
    #[must_use]
    pub const fn new(
        output: BufferSlice<'a>,
        output_gradient: BufferSlice<'a>,
        saved: BufferSlice<'a>,
        workspace: BufferSlice<'a>,
    ) -> Self {
        Self {
            output,
            output_gradient,
            gamma: None,
            beta: None,
            saved,
            valid: None,
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            workspace,
        }
    }
}

/// What [`BatchNorm::bind_part_moments`](crate::BatchNorm::bind_part_moments) reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct PartBuffers<'a> {
    /// x of this part, M·C values. Read.
    pub input: BufferSlice<'a>,
    /// C records of [`ChannelMoments`](crate::ChannelMoments). Overwritten.
    pub moments: BufferSlice<'a>,
    /// Which elements are data and which padding, as [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) wrote it; absent:
    /// all are data. Read.
    pub valid: Option<BufferSlice<'a>>,
    /// Scratch of at least [`Plan::workspace_size`](crate::Plan::workspace_size) bytes.
    pub workspace: BufferSlice<'a>,
}

impl<'a> PartBuffers<'a> {
    /// Input, moments and workspace, without padding.
    #[must_use]
    pub const fn new(input: BufferSlice<'a>, moments: BufferSlice<'a>, workspace: BufferSlice<'a>) -> Self {
        Self { input, moments, valid: None, workspace }
    }
}

/// What [`BatchNorm::bind_conclude`](crate::BatchNorm::bind_conclude) reads and writes on the device.
#[derive(Clone, Copy, Debug)]
pub struct ConcludeBuffers<'a> {
    /// The moments of all parts of a batch: C records of [`ChannelMoments`](crate::ChannelMoments) a part, part after part. Read.
    pub moments: BufferSlice<'a>,
    /// C records of [`ChannelStatistics`](crate::ChannelStatistics). Overwritten.
    pub saved: BufferSlice<'a>,
    /// Running statistics to update; absent: not tracked.
    pub running: Option<RunningStatistics<'a>>,
    /// One [`ChannelHealth`](crate::ChannelHealth) a channel. Overwritten.
    pub health: Option<BufferSlice<'a>>,
    /// Batch renormalization; needs `running`. Absent: none.
    pub renormalization: Option<Renormalization<'a>>,
}

impl<'a> ConcludeBuffers<'a> {
    /// Moments and saved statistics, and nothing else.
    #[must_use]
    pub const fn new(moments: BufferSlice<'a>, saved: BufferSlice<'a>) -> Self {
        Self { moments, saved, running: None, health: None, renormalization: None }
    }
}
