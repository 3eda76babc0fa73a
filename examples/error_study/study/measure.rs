//! What counts as the error of a result.
//!
//! The worst of all channels, each divided by a scale of the channel that does not depend on the mean, in units of the roundoff
//! of the result's type (2^-24 for f32, 2^-11 for f16, 2^-8 for bf16). A correctly rounded result is at 1 at most.
//!
//! | result | scale |
//! |---|---|
//! | y, inference, dx, frozen dx | the largest truth |
//! | mean | the deviation, 1/r |
//! | 1/deviation, running mean, running variance | the truth |
//! | dγ, dβ, frozen dβ | Σ\|g\| |
//! | frozen dγ | Σ\|g\|·max(1, \|x̂\|), x̂ by the running statistics |

use wgpu_batch_norm::ElementType;

use super::Case;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    Y,
    Mean,
    InverseDeviation,
    RunningMean,
    RunningVariance,
    Dx,
    GammaGradient,
    BetaGradient,
    Inference,
    FrozenDx,
    FrozenGammaGradient,
    FrozenBetaGradient,
}

impl Quantity {
    pub const ALL: [Self; 12] = [
        Self::Y,
        Self::Mean,
        Self::InverseDeviation,
        Self::RunningMean,
        Self::RunningVariance,
        Self::Dx,
        Self::GammaGradient,
        Self::BetaGradient,
        Self::Inference,
        Self::FrozenDx,
        Self::FrozenGammaGradient,
        Self::FrozenBetaGradient,
    ];

    /// As in the files of figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Y => "y",
            Self::Mean => "mean",
            Self::InverseDeviation => "inverse_deviation",
            Self::RunningMean => "running_mean",
            Self::RunningVariance => "running_variance",
            Self::Dx => "dx",
            Self::GammaGradient => "dgamma",
            Self::BetaGradient => "dbeta",
            Self::Inference => "inference",
            Self::FrozenDx => "frozen_dx",
            Self::FrozenGammaGradient => "frozen_dgamma",
            Self::FrozenBetaGradient => "frozen_dbeta",
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Y => "y of training",
            Self::Mean => "saved mean",
            Self::InverseDeviation => "saved 1/deviation",
            Self::RunningMean => "running mean",
            Self::RunningVariance => "running variance",
            Self::Dx => "dx",
            Self::GammaGradient => "dγ",
            Self::BetaGradient => "dβ",
            Self::Inference => "y of inference",
            Self::FrozenDx => "dx through frozen statistics",
            Self::FrozenGammaGradient => "dγ through frozen statistics",
            Self::FrozenBetaGradient => "dβ through frozen statistics",
        }
    }

    pub const fn is_tensor(self) -> bool {
        matches!(self, Self::Y | Self::Dx | Self::Inference | Self::FrozenDx)
    }
}

/// An error for each quantity, where the variant has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors([Option<f64>; Quantity::ALL.len()]);

impl Errors {
    pub fn get(&self, quantity: Quantity) -> Option<f64> {
        self.0[quantity as usize]
    }

    pub fn set(&mut self, quantity: Quantity, error: f64) {
        // What is not a number where one is due is infinitely wrong.
        self.0[quantity as usize] = Some(if error.is_nan() { f64::INFINITY } else { error });
    }
}

/// The roundoff of what a quantity is stored in.
pub fn roundoff(case: &Case, quantity: Quantity) -> f64 {
    match case.element {
        ElementType::F16 if quantity.is_tensor() => 2_f64.powi(-11),
        ElementType::Bf16 if quantity.is_tensor() => 2_f64.powi(-8),
        _ => 2_f64.powi(-24),
    }
}

/// Of a tensor.
pub fn tensor_error(case: &Case, quantity: Quantity, got: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(got.len(), truth.len());
    let (mut error, mut scale) = (vec![0.0_f64; case.channels()], vec![0.0_f64; case.channels()]);
    for (index, (&got, &truth)) in got.iter().zip(truth).enumerate() {
        let (channel, off) = (case.channel(index), (f64::from(got) - truth).abs());
        // `max` would pass over a NaN.
        error[channel] = if off.is_nan() { f64::INFINITY } else { error[channel].max(off) };
        scale[channel] = scale[channel].max(truth.abs());
    }
    worst(&error, &scale, roundoff(case, quantity))
}

/// Of a vector, with a scale for each value.
pub fn vector_error(case: &Case, quantity: Quantity, got: &[f64], truth: &[f64], scale: &[f64]) -> f64 {
    assert_eq!(got.len(), truth.len());
    let error: Vec<f64> = got.iter().zip(truth).map(|(got, truth)| (got - truth).abs()).collect();
    worst(&error, scale, roundoff(case, quantity))
}

fn worst(error: &[f64], scale: &[f64], roundoff: f64) -> f64 {
    let relative = error.iter().zip(scale).map(|(error, scale)| if *error == 0.0 { 0.0 } else { error / scale });
    let worst = |worst: f64, error: f64| if error.is_nan() { f64::INFINITY } else { worst.max(error) };
    relative.fold(0.0, worst) / roundoff
}
