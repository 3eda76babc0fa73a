//! What frameworks disagree about, as types: momentum, running variance, edge-case policies.
//!
//! | standard | epsilon | momentum | variance put into the running variance |
//! |---|---|---|---|
//! | PyTorch | 1e-5 | 0.1, weight of the new batch; `None` is a cumulative average | unbiased |
//! | ONNX 14, 15 | 1e-5 | 0.9, weight of the old value | population |
//! | Keras 3 | 1e-3 | 0.99, weight of the old value | population |
//! | Flax | 1e-5 | 0.99, weight of the old value | population |
//! | Burn | 1e-5 | 0.1, weight of the new batch | population |
//!
//! All of them normalise with the population variance.

use crate::Error;

/// How much a batch changes the running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Momentum {
    /// `running = (1 − m)·running + m·batch`: PyTorch, Burn, cuDNN's `exponentialAverageFactor`.
    ///
    /// Any finite value is taken, as in PyTorch, also outside 0 to 1.
    WeightOfNew(f64),
    /// `running = m·running + (1 − m)·batch`: ONNX, Keras, Flax.
    WeightOfOld(f64),
    /// The plain average over all batches so far: PyTorch's `momentum=None`.
    ///
    /// With `n` batches tracked before this one, the batch gets the weight `1/(n + 1)`, so the first batch replaces the
    /// initial values. The counter is `batches_tracked`.
    CumulativeAverage,
}

impl Momentum {
    /// The weight of the new batch after `batches_tracked` earlier ones.
    ///
    /// ```
    /// use wgpu_batch_norm::Momentum;
    /// assert_eq!(Momentum::WeightOfNew(0.25).weight_of_new(7), 0.25);
    /// assert_eq!(Momentum::WeightOfOld(0.75).weight_of_new(7), 0.25);
    /// assert_eq!(Momentum::CumulativeAverage.weight_of_new(3), 0.25);
    /// ```
    #[must_use]
    pub fn weight_of_new(self, batches_tracked: u64) -> f64 {
        match self {
            Self::WeightOfNew(weight) => weight,
            Self::WeightOfOld(weight) => 1.0 - weight,
            Self::CumulativeAverage => 1.0 / (batches_tracked as f64 + 1.0),
        }
    }

    pub(crate) fn validate(self) -> Result<(), Error> {
        match self {
            Self::WeightOfNew(momentum) | Self::WeightOfOld(momentum) if !(momentum as f32).is_finite() => {
                Err(Error::InvalidMomentum { momentum })
            }
            _ => Ok(()),
        }
    }
}

/// Which batch variance the running variance takes. Normalisation itself always uses the population variance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunningVariance {
    /// `v·M/(M − 1)` (Bessel): PyTorch, cuDNN, TensorFlow's fused op.
    Unbiased,
    /// `v`: ONNX 14 and 15, Keras, Flax, Burn.
    Population,
}

impl RunningVariance {
    /// The factor on the population variance for `count` values per channel; 1 for fewer than two values.
    #[must_use]
    pub fn factor(self, count: u64) -> f64 {
        match self {
            Self::Unbiased if count > 1 => count as f64 / (count - 1) as f64,
            _ => 1.0,
        }
    }
}

/// What training does with one value per channel (M = 1), where the variance is 0 and the unbiased variance undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OneSamplePolicy {
    /// Refuse with [`Error::OneSample`], as PyTorch does.
    #[default]
    Error,
    /// Train; the running variance takes the population variance, 0.
    PopulationVariance,
    /// Train; the running statistics are left as they are.
    SkipRunningUpdate,
}

/// What training and backward do with a batch without elements (M = 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmptyBatchPolicy {
    /// Empty outputs, dgamma = dbeta = 0 (nothing added when accumulating), running and saved statistics untouched.
    #[default]
    Skip,
    /// Refuse with [`Error::EmptyBatch`].
    Error,
}

/// What training does with the running statistics of a channel whose batch statistics are not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NonFinitePolicy {
    /// Update them, as every framework does: from then on they are not finite either.
    #[default]
    Update,
    /// Leave those of the channel as they are, on the device and without asking the host. The batch counter counts the
    /// batch all the same, so a cumulative average then weighs the channel's other batches a little less.
    SkipRunningUpdate,
}

/// What becomes of the running statistics where a batch has several segments
/// ([`Shape::with_sub_batches`](crate::Shape::with_sub_batches)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SegmentRunning {
    /// Segments share them, C values, and update them one after the other, as if each were a batch: a loop over sub-batches, as
    /// in most PyTorch code for ghost batch norm. The batch counter counts every segment.
    #[default]
    InTurn,
    /// Segments share them, C values, and update them once with the average of their means and of their variances: Keras'
    /// `virtual_batch_size`, PyTorch's `InstanceNorm`.
    Averaged,
    /// Every segment has its own: S·C values, an instance each, in the order of
    /// [`Segmentation::instance`](crate::Segmentation::instance). Inference then normalises by segments too. For time
    /// steps, and for domains.
    Separate,
}

/// One framework's set of choices. Start from a constructor and change fields where you differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convention {
    /// Added to the variance inside the square root; finite and at least 0.
    pub epsilon: f64,
    /// How much a batch changes the running statistics.
    pub momentum: Momentum,
    /// Which variance the running variance takes.
    pub running_variance: RunningVariance,
    /// One value per channel in training.
    pub one_sample: OneSamplePolicy,
    /// No values per channel.
    pub empty_batch: EmptyBatchPolicy,
    /// A channel whose batch mean or variance is infinite or not a number.
    pub non_finite: NonFinitePolicy,
    /// The running statistics of a batch in segments.
    pub segment_running: SegmentRunning,
}

impl Convention {
    /// PyTorch's `nn.BatchNorm*d` defaults: epsilon 1e-5, momentum 0.1 on the new batch, unbiased running variance.
    #[must_use]
    pub const fn pytorch() -> Self {
        Self {
            epsilon: 1e-5,
            momentum: Momentum::WeightOfNew(0.1),
            running_variance: RunningVariance::Unbiased,
            one_sample: OneSamplePolicy::Error,
            empty_batch: EmptyBatchPolicy::Skip,
            non_finite: NonFinitePolicy::Update,
            segment_running: SegmentRunning::InTurn,
        }
    }

    /// ONNX `BatchNormalization` of opset 14 and 15: epsilon 1e-5, momentum 0.9 on the old value, population variance.
    #[must_use]
    pub const fn onnx() -> Self {
        Self {
            momentum: Momentum::WeightOfOld(0.9),
            running_variance: RunningVariance::Population,
            one_sample: OneSamplePolicy::PopulationVariance,
            ..Self::pytorch()
        }
    }

    /// Keras 3: epsilon 1e-3, momentum 0.99 on the old value, population variance.
    #[must_use]
    pub const fn keras() -> Self {
        Self { epsilon: 1e-3, momentum: Momentum::WeightOfOld(0.99), ..Self::onnx() }
    }

    /// Flax: epsilon 1e-5, momentum 0.99 on the old value, population variance.
    #[must_use]
    pub const fn flax() -> Self {
        Self { epsilon: 1e-5, ..Self::keras() }
    }

    /// Burn: epsilon 1e-5, momentum 0.1 on the new batch, population variance.
    #[must_use]
    pub const fn burn() -> Self {
        Self { momentum: Momentum::WeightOfNew(0.1), ..Self::onnx() }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        // The device adds epsilon in f32, so it must be finite there too.
        if !(self.epsilon as f32).is_finite() || self.epsilon < 0.0 {
            return Err(Error::InvalidEpsilon { epsilon: self.epsilon });
        }
        self.momentum.validate()
    }
}

impl Default for Convention {
    fn default() -> Self {
        Self::pytorch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constructors_are_the_published_defaults() {
        let rows = [
            (Convention::pytorch(), 1e-5, 0.1, RunningVariance::Unbiased),
            (Convention::onnx(), 1e-5, 0.1, RunningVariance::Population),
            (Convention::keras(), 1e-3, 0.01, RunningVariance::Population),
            (Convention::flax(), 1e-5, 0.01, RunningVariance::Population),
            (Convention::burn(), 1e-5, 0.1, RunningVariance::Population),
        ];
        for (convention, epsilon, weight, variance) in rows {
            assert_eq!(convention.epsilon, epsilon);
            approx::assert_relative_eq!(convention.momentum.weight_of_new(0), weight, max_relative = 1e-12);
            assert_eq!(convention.running_variance, variance);
        }
    }

    #[test]
    fn the_bessel_factor_is_guarded_where_it_is_undefined() {
        assert_eq!(RunningVariance::Unbiased.factor(2), 2.0);
        assert_eq!(RunningVariance::Unbiased.factor(1), 1.0);
        assert_eq!(RunningVariance::Unbiased.factor(0), 1.0);
        assert_eq!(RunningVariance::Population.factor(2), 1.0);
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        for epsilon in [-1e-9, f64::NAN, f64::INFINITY, 1e300] {
            let convention = Convention { epsilon, ..Convention::pytorch() };
            assert!(matches!(convention.validate(), Err(Error::InvalidEpsilon { .. })), "{epsilon}");
        }
        for momentum in [f64::NAN, f64::NEG_INFINITY, 1e300] {
            let convention = Convention { momentum: Momentum::WeightOfNew(momentum), ..Convention::pytorch() };
            assert!(matches!(convention.validate(), Err(Error::InvalidMomentum { .. })), "{momentum}");
        }
        assert_eq!(Convention { epsilon: 0.0, ..Convention::pytorch() }.validate(), Ok(()));
    }
}
