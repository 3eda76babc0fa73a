//! The activation that follows normalisation, and how backward comes to know its derivative.
//!
//! With a pre-activation `t = γ·x̂ + β + z` (z the residual, if there is one) forward gives `y = f(t)`, and backward takes
//! `h = g·f'(t)` wherever the formulas without an activation have g. The gradient of the residual is h.

use std::fmt;

use crate::Error;

/// The activation, fused into training forward, inference and both backwards.
///
/// | activation | f(t) | f'(t) |
/// |---|---|---|
/// | `Identity` | t | 1 |
/// | `Relu` | max(t, 0) | 1 where t > 0, else 0 |
/// | `LeakyRelu` | t where t > 0, else slope·t | 1 where t > 0, else slope |
/// | `Silu` | t·σ(t) | σ(t)·(1 + t·(1 − σ(t))) |
/// | `Gelu` | t·Φ(t) | Φ(t) + t·φ(t) |
/// | `GeluTanh` | t·σ(2u), u = √(2/π)·(t + 0.044715·t³) | σ(2u) + 2·t·u'·σ(2u)·(1 − σ(2u)) |
///
/// σ is the logistic function, Φ and φ the standard normal distribution and its density (Hendrycks and Gimpel,
/// arXiv 1606.08415). A NaN stays a NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// Rectified linear unit.
    Relu,
    /// Leaky rectified linear unit.
    LeakyRelu {
        /// The factor for t ≤ 0: finite and at least 0.
        slope: f64,
    },
    /// Sigmoid linear unit, also called swish.
    #[doc(alias = "swish")]
    Silu,
    /// Gaussian error linear unit, with the exact distribution function.
    Gelu,
    /// Gaussian error linear unit, in its approximation by tanh.
    GeluTanh,
}

impl Activation {
    /// Whether the derivative follows from the sign of t, and so from that of y.
    #[must_use]
    pub const fn is_piecewise_linear(self) -> bool {
        matches!(self, Self::Identity | Self::Relu | Self::LeakyRelu { .. })
    }

    pub(crate) fn validate(self) -> Result<(), Error> {
        match self {
            // The device multiplies in f32, so the slope must be finite there too.
            Self::LeakyRelu { slope } if !(slope as f32).is_finite() || slope < 0.0 => {
                Err(Error::InvalidSlope { slope })
            }
            _ => Ok(()),
        }
    }

    /// Whether y tells t.
    pub(crate) fn check_invertible(self) -> Result<(), Error> {
        match self {
            Self::Identity => Ok(()),
            // A device may take a slope below the smallest normal number for 0.
            Self::LeakyRelu { slope } if slope as f32 >= f32::MIN_POSITIVE => Ok(()),
            _ => Err(Error::NotInvertible { activation: self }),
        }
    }

    /// Whether backward can take the derivative from `source`.
    pub(crate) fn check_source(self, from: ActivationSource) -> Result<(), Error> {
        if self.is_piecewise_linear() || from == ActivationSource::Recompute {
            Ok(())
        } else {
            Err(Error::ActivationSourceNotServed { activation: self, from })
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Relu => f.write_str("ReLU"),
            Self::LeakyRelu { slope } => write!(f, "leaky ReLU with slope {slope}"),
            Self::Silu => f.write_str("SiLU"),
            Self::Gelu => f.write_str("GELU"),
            Self::GeluTanh => f.write_str("GELU (tanh)"),
        }
    }
}

/// Where backward takes the activation's derivative from. [`Plan::activation_cost`](crate::Plan::activation_cost) tells
/// what each costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActivationSource {
    /// From t, computed again from x, the statistics, gamma, beta and, if forward added one, the residual. Serves every
    /// activation.
    Recompute,
    /// From the sign of y. Serves `Relu` and `LeakyRelu`. A positive t that rounds to 0 in the element type counts as 0.
    Output,
    /// From a mask of one bit an element that forward writes. Serves `Relu` and `LeakyRelu`.
    Mask,
}

impl fmt::Display for ActivationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recompute => "recomputation",
            Self::Output => "the output",
            Self::Mask => "a mask",
        })
    }
}

/// What an [`ActivationSource`] costs beyond x and the saved statistics, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivationCost {
    /// Kept between forward and backward: the residual, y or the mask.
    pub kept: u64,
    /// Written by forward in addition.
    pub written: u64,
    /// Read by backward in addition, each time it walks over the tensor (once or twice, see
    /// [`Strategy`](crate::Strategy)).
    pub read: u64,
}
