//! What backward takes the activation's derivative from.

use super::{Element, check_length, check_optional, mask_words};
use crate::{Activation, ActivationSource, Error, Problem};

/// What backward takes the activation's derivative from: the values to each [`ActivationSource`].
///
/// Without an activation (`Identity`) nothing of it is read, but lengths are checked. Default: `Recompute` without a
/// residual.
#[derive(Clone, Copy, Debug)]
pub enum ActivationState<'a, T> {
    /// t is computed again, from x, the statistics that x̂ is computed with, γ, β and the residual. Serves every
    /// activation.
    Recompute {
        /// z as forward read it, M·C elements; absent if forward added none.
        residual: Option<&'a [T]>,
    },
    /// y as forward wrote it, M·C elements: y, as rounded to the element type, is looked at in place of t. Serves
    /// `Relu` and `LeakyRelu`.
    Output(&'a [T]),
    /// The mask that forward wrote, ⌈M·C/32⌉ words: the bit of an element is whether t > 0, so that of a NaN is 0.
    /// Serves `Relu` and `LeakyRelu`.
    Mask(&'a [u32]),
}

impl<T> Default for ActivationState<'_, T> {
    fn default() -> Self {
        Self::Recompute { residual: None }
    }
}

impl<T: Element> ActivationState<'_, T> {
    /// Which source the values belong to.
    #[must_use]
    pub const fn source(&self) -> ActivationSource {
        match self {
            Self::Recompute { .. } => ActivationSource::Recompute,
            Self::Output(_) => ActivationSource::Output,
            Self::Mask(_) => ActivationSource::Mask,
        }
    }

    /// Whether the gradient through the activation depends on the input.
    pub(super) fn reads_input(&self, activation: Activation) -> bool {
        activation != Activation::Identity && self.source() == ActivationSource::Recompute
    }

    pub(super) fn check(&self, problem: Problem, activation: Activation) -> Result<(), Error> {
        match self {
            Self::Recompute { residual } => check_optional("activation.residual", *residual, problem.elements())?,
            Self::Output(output) => check_length("activation.output", output, problem.elements())?,
            Self::Mask(mask) => check_length("activation.mask", mask, mask_words(problem))?,
        }
        activation.check_source(self.source())
    }

    /// h = g·f'(t) of one element, with t before the residual is added.
    pub(super) fn gradient(&self, activation: Activation, index: usize, t: f64, gradient: f64) -> f64 {
        match self {
            Self::Recompute { residual: None } => activation.gradient(t, gradient),
            Self::Recompute { residual: Some(residual) } => activation.gradient(t + residual[index].to_f64(), gradient),
            Self::Output(output) => activation.gradient(output[index].to_f64(), gradient),
            Self::Mask(mask) => activation.select(mask[index / 32] >> (index % 32) & 1 == 1, gradient),
        }
    }
}
