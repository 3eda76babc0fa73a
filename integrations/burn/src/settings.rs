//! What a batch norm is, beyond its channels.

use burn::config::Config;

use crate::ranks::Synchronised;

/// Which batch variance the running variance takes. Training itself always normalises with the population variance.
#[derive(Config, Debug, Copy, PartialEq, Eq, Hash)]
pub enum RunningVariance {
    /// `v`: Burn's own module, Keras, ONNX.
    Population,
    /// `v·M/(M − 1)` (Bessel) for M values a channel: PyTorch, TensorFlow's fused operation. One value a channel is refused
    /// in training ([`Error::OneSample`](crate::Error::OneSample)).
    Unbiased,
}

/// The activation, fused into forward and backward: `y = f(γ·x̂ + β + z)` with the residual z, if there is one.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Activation {
    /// None.
    Identity,
    /// `max(t, 0)`. Backward takes the derivative from y.
    Relu,
    /// `t` where t > 0, else `slope·t`. Backward takes the derivative from y.
    LeakyRelu {
        /// The factor for t ≤ 0: finite and at least 0.
        slope: f64,
    },
    /// `t·σ(t)`. Backward computes t again.
    Silu,
    /// `t·Φ(t)`, with the exact normal distribution function. Backward computes t again.
    Gelu,
}

impl Activation {
    pub(crate) const fn for_kernels(self) -> wgpu_batch_norm::Activation {
        match self {
            Self::Identity => wgpu_batch_norm::Activation::Identity,
            Self::Relu => wgpu_batch_norm::Activation::Relu,
            Self::LeakyRelu { slope } => wgpu_batch_norm::Activation::LeakyRelu { slope },
            Self::Silu => wgpu_batch_norm::Activation::Silu,
            Self::Gelu => wgpu_batch_norm::Activation::Gelu,
        }
    }

    /// Whether backward takes the derivative from the output rather than computing it again.
    pub(crate) const fn follows_from_output(self) -> bool {
        matches!(self, Self::Relu | Self::LeakyRelu { .. })
    }
}

/// What an operation needs to know besides its tensors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Added to the variance inside the square root.
    pub(crate) epsilon: f64,
    /// The weight of the new batch in the running statistics.
    pub(crate) momentum: f64,
    /// Which variance the running variance takes.
    pub(crate) running_variance: RunningVariance,
    /// What follows.
    pub(crate) activation: Activation,
    /// The ranks that have the rest of the batch.
    pub(crate) synchronised: Option<Synchronised>,
}

impl Settings {
    pub(crate) fn convention(&self) -> wgpu_batch_norm::Convention {
        wgpu_batch_norm::Convention {
            epsilon: self.epsilon,
            momentum: wgpu_batch_norm::Momentum::WeightOfNew(self.momentum),
            running_variance: match self.running_variance {
                RunningVariance::Population => wgpu_batch_norm::RunningVariance::Population,
                RunningVariance::Unbiased => wgpu_batch_norm::RunningVariance::Unbiased,
            },
            one_sample: match self.running_variance {
                RunningVariance::Population => wgpu_batch_norm::OneSamplePolicy::PopulationVariance,
                RunningVariance::Unbiased => wgpu_batch_norm::OneSamplePolicy::Error,
            },
            ..wgpu_batch_norm::Convention::burn()
        }
    }

    /// The bits, to look plans up by.
    pub(crate) fn key(&self) -> [u64; 5] {
        let (activation, slope) = match self.activation {
            Activation::Identity => (0, 0.0),
            Activation::Relu => (1, 0.0),
            Activation::LeakyRelu { slope } => (2, slope),
            Activation::Silu => (3, 0.0),
            Activation::Gelu => (4, 0.0),
        };
        let unbiased = u64::from(self.running_variance == RunningVariance::Unbiased);
        [self.epsilon.to_bits(), self.momentum.to_bits(), unbiased, activation, slope.to_bits()]
    }
}
