//! Which optional parts an operation has, and what that means for its kernels.

use crate::activation::{Activation, ActivationSource};
use crate::plan::Params;
use crate::plan::kernel::Fusion;
use crate::problem::PositionAxis;

/// How lengths of sequences say what is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequences {
    /// Where sequence and step stand among positions.
    pub axes: [PositionAxis; 2],
    /// Steps of the sequences before the tensor's first.
    pub first_step: u32,
}

/// Which optional parts training forward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrainingOptions {
    pub gamma: bool,
    pub beta: bool,
    pub residual: bool,
    /// Write the activation mask.
    pub mask: bool,
    /// Keep the batch statistics for backward.
    pub saved: bool,
    /// Update the running statistics.
    pub running: bool,
    pub batches_tracked: bool,
    pub health: bool,
    /// Elements may be padding.
    pub valid: bool,
    pub renormalization: bool,
    /// There are running statistics, whether or not they are updated.
    pub renormalizes_to_running: bool,
}

/// Which optional parts inference has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InferenceOptions {
    pub gamma: bool,
    pub beta: bool,
    pub residual: bool,
    pub mask: bool,
    pub valid: bool,
}

/// Which optional parts folding has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FoldOptions {
    pub gamma: bool,
    pub beta: bool,
    pub bias: bool,
}

/// What becomes of one gradient; the numbers of `shaders/gradient/modes.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GradientMode {
    #[default]
    Omit = 0,
    Overwrite = 1,
    Accumulate = 2,
}

/// What backward is given of forward's activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Derivative {
    #[default]
    Recompute,
    RecomputeWithResidual,
    Output,
    Mask,
    /// The output is there in place of the input.
    Inverted,
}

impl Derivative {
    pub(super) const fn source(self) -> ActivationSource {
        match self {
            Self::Recompute | Self::RecomputeWithResidual => ActivationSource::Recompute,
            Self::Output | Self::Inverted => ActivationSource::Output,
            Self::Mask => ActivationSource::Mask,
        }
    }
}

/// What the companion tensor is to a kernel; the numbers of `shaders/common/companion.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CompanionUse {
    #[default]
    None = 0,
    Residual = 1,
    Output = 2,
}

/// Which optional parts backward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BackwardOptions {
    pub gamma: bool,
    pub beta: bool,
    /// Statistics were saved by forward; else they are taken from the input again.
    pub saved: bool,
    /// The input is there; it always is but for frozen statistics.
    pub input: bool,
    pub valid: bool,
    pub renormalization: bool,
    pub derivative: Derivative,
    pub input_gradient: GradientMode,
    pub residual_gradient: GradientMode,
    pub gamma_gradient: GradientMode,
    pub beta_gradient: GradientMode,
}

impl BackwardOptions {
    pub(super) fn wants_sums(&self) -> bool {
        self.gamma_gradient != GradientMode::Omit || self.beta_gradient != GradientMode::Omit
    }

    /// Whether a tensor is mapped to a tensor.
    pub(super) fn wants_map(&self) -> bool {
        self.input_gradient != GradientMode::Omit || self.residual_gradient != GradientMode::Omit
    }
}

/// What an operation fixes in the pipelines of its kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fixed {
    pub companion: CompanionUse,
    pub input_gradient: GradientMode,
    pub residual_gradient: GradientMode,
}

/// What is fused into an operation: the kernel, and what its pipeline fixes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fused {
    pub fusion: Fusion,
    pub fixed: Fixed,
}

impl Fused {
    pub(super) fn forward(residual: bool, mask: bool) -> Self {
        let fusion = match (mask, residual) {
            (true, _) => Fusion::Mask,
            (false, true) => Fusion::Companion,
            (false, false) => Fusion::None,
        };
        let companion = if residual { CompanionUse::Residual } else { CompanionUse::None };
        Self { fusion, fixed: Fixed { companion, ..Fixed::default() } }
    }

    pub(super) fn backward(activation: Activation, options: &BackwardOptions) -> Self {
        let returns_residual = options.residual_gradient != GradientMode::Omit;
        let (fusion, companion) = match options.derivative {
            Derivative::Inverted => (Fusion::Inverted, CompanionUse::None),
            // Without an activation h = g, whatever backward was given.
            _ if activation == Activation::Identity && returns_residual => (Fusion::Companion, CompanionUse::None),
            _ if activation == Activation::Identity => (Fusion::None, CompanionUse::None),
            Derivative::Recompute => (Fusion::Activation, CompanionUse::None),
            Derivative::RecomputeWithResidual => (Fusion::Companion, CompanionUse::Residual),
            Derivative::Output => (Fusion::Companion, CompanionUse::Output),
            Derivative::Mask => (Fusion::Mask, CompanionUse::None),
        };
        let BackwardOptions { input_gradient, residual_gradient, .. } = *options;
        Self { fusion, fixed: Fixed { companion, input_gradient, residual_gradient } }
    }
}

pub(super) fn parameter_flags(options: &BackwardOptions) -> u32 {
    flag(options.gamma, Params::HAS_GAMMA) | flag(options.beta, Params::HAS_BETA)
}

/// What becomes of dgamma and dbeta.
pub(super) fn sum_flags(options: &BackwardOptions) -> u32 {
    let of = |mode, wanted: u32, accumulates: u32| match mode {
        GradientMode::Omit => 0,
        GradientMode::Overwrite => wanted,
        GradientMode::Accumulate => wanted | accumulates,
    };
    of(options.gamma_gradient, Params::WANTS_GAMMA_GRADIENT, Params::ACCUMULATES_GAMMA_GRADIENT)
        | of(options.beta_gradient, Params::WANTS_BETA_GRADIENT, Params::ACCUMULATES_BETA_GRADIENT)
}

pub(super) const fn flag(set: bool, flag: u32) -> u32 {
    if set { flag } else { 0 }
}
