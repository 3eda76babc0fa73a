//! Batch renormalization: what brings a batch's statistics to the running ones.

use super::{Element, inverse_deviation};
use crate::ChannelRenormalization;

/// What batch renormalization is given, and what it saves for backward.
///
/// Ioffe, *Batch Renormalization*, 2017 (arXiv 1702.03275).
#[derive(Debug)]
pub struct Renormalization<'a> {
    /// `r_max`, at least 1, and `d_max`, at least 0. 1 and 0 make plain batch normalization, infinities limit nothing.
    pub limits: [f32; 2],
    /// A record for each instance, overwritten.
    pub saved: &'a mut [ChannelRenormalization],
}

/// R and D.
#[derive(Clone, Copy)]
pub(super) struct Correction {
    scale: f64,
    shift: f64,
}

impl Correction {
    /// From the mean and variance of a batch and those that are recorded.
    pub(super) fn new(batch: [f64; 2], recorded: [f64; 2], epsilon: f64, limits: [f32; 2]) -> Self {
        let [r_max, d_max] = limits.map(f64::from);
        let inverse = inverse_deviation(recorded[1], epsilon);
        Self {
            scale: limited((batch[1] + epsilon).sqrt() * inverse, 1.0 / r_max, r_max),
            shift: limited((batch[0] - recorded[0]) * inverse, -d_max, d_max),
        }
    }

    pub(super) fn saved(self) -> ChannelRenormalization {
        ChannelRenormalization { scale: f32::from_f64(self.scale), shift: f32::from_f64(self.shift) }
    }
}

impl From<ChannelRenormalization> for Correction {
    fn from(saved: ChannelRenormalization) -> Self {
        Self { scale: f64::from(saved.scale), shift: f64::from(saved.shift) }
    }
}

/// γ' = γ·R and β' = γ·D + β, so that t = γ'·x̂ + β' + z; γ and β where nothing is renormalised.
pub(super) fn corrected(gamma: f64, beta: f64, correction: Option<Correction>) -> (f64, f64) {
    correction.map_or((gamma, beta), |Correction { scale, shift }| (gamma * scale, gamma * shift + beta))
}

/// dγ from Σ h·x̂ and Σ h.
pub(super) fn gamma_gradient(product_sum: f64, sum: f64, correction: Option<Correction>) -> f64 {
    correction.map_or(product_sum, |Correction { scale, shift }| scale * product_sum + shift * sum)
}

/// The value within limits; a NaN stays a NaN.
fn limited(value: f64, low: f64, high: f64) -> f64 {
    if value.is_nan() { value } else { value.max(low).min(high) }
}
