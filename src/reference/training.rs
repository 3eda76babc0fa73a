//! Training forward: batch statistics, outputs, running statistics, health.

use super::forward::Forward;
use super::{BatchNorm, Element, Plan, channel_indices, check_length, check_optional, inverse_deviation};
use crate::convention::{EmptyBatchPolicy, NonFinitePolicy, OneSamplePolicy};
use crate::{ChannelHealth, ChannelStatistics, Error, Problem};

/// What training forward reads and writes. Tensors are row-major in the plan's shape, vectors have C values.
///
/// Default: empty slices, and nothing optional.
#[derive(Debug)]
pub struct TrainingBuffers<'a, T: Element> {
    /// x, M·C elements.
    pub input: &'a [T],
    /// y, M·C elements, overwritten.
    pub output: &'a mut [T],
    /// γ, C values; absent means 1.
    pub gamma: Option<&'a [T::Parameter]>,
    /// β, C values; absent means 0.
    pub beta: Option<&'a [T::Parameter]>,
    /// Updated when given.
    pub running: Option<RunningStatistics<'a, T::Parameter>>,
    /// C records for backward, overwritten when given.
    pub saved: Option<&'a mut [ChannelStatistics]>,
    /// z, M·C elements, added before the activation.
    pub residual: Option<&'a [T]>,
    /// ⌈M·C/32⌉ words, overwritten when given: bit `e % 32` of word `e / 32` is 1 where t > 0 for element `e`, and 0
    /// past the last element. For activations that are piecewise linear only.
    pub activation_mask: Option<&'a mut [u32]>,
    /// C reports, overwritten when given; an empty batch leaves them as they are.
    pub health: Option<&'a mut [ChannelHealth]>,
}

impl<T: Element> Default for TrainingBuffers<'_, T> {
    fn default() -> Self {
        Self {
            input: &[],
            output: &mut [],
            gamma: None,
            beta: None,
            running: None,
            saved: None,
            residual: None,
            activation_mask: None,
            health: None,
        }
    }
}

/// Running statistics that training updates.
#[derive(Debug)]
pub struct RunningStatistics<'a, P> {
    /// Running mean, C values.
    pub mean: &'a mut [P],
    /// Running variance, C values.
    pub variance: &'a mut [P],
    /// Batches seen so far; incremented when given, needed by [`crate::Momentum::CumulativeAverage`].
    pub batches_tracked: Option<&'a mut u32>,
}

/// Exact (f64) statistics of one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub mean: f64,
    pub variance: f64,
}

/// `μ = (1/M)·Σx`, `v = (1/M)·Σ(x − μ)²`, in two passes, the mean corrected by the sum of the residuals.
///
/// The sums run over `x − x₀` with x₀ the channel's first value (exact for close values), so a constant channel has
/// exactly its value as mean and 0 as variance.
pub(super) fn moments<T: Element>(problem: Problem, input: &[T], channel: usize) -> Moments {
    let values = channel_indices(problem, channel).map(|index| input[index].to_f64());
    let count = problem.count() as f64;
    let pivot = values.clone().next().unwrap_or(0.0);
    let rough = pivot + values.clone().map(|x| x - pivot).sum::<f64>() / count;
    let mean = rough + values.clone().map(|x| x - rough).sum::<f64>() / count;
    // Infinite values make the correction undefined; the first pass already says what the mean is.
    let mean = if mean.is_nan() { values.clone().sum::<f64>() / count } else { mean };
    let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    Moments { mean, variance }
}

/// What the statistics, as a device has them in f32, say of a channel.
fn channel_health(mean: f64, variance: f64) -> ChannelHealth {
    let (mean, variance) = (f32::from_f64(mean), f32::from_f64(variance));
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    ChannelHealth(
        flag(!(mean.is_finite() && variance.is_finite()), ChannelHealth::NON_FINITE)
            | flag(variance == 0.0, ChannelHealth::ZERO_VARIANCE),
    )
}

impl BatchNorm {
    /// Training forward.
    ///
    /// ```text
    /// y = f( γ·(x − μ)·r + β + z )
    /// running_mean     ← (1 − a)·running_mean     + a·μ
    /// running_variance ← (1 − a)·running_variance + a·v·k      k = M/(M − 1) or 1, by convention
    /// ```
    ///
    /// `a` is the momentum as the weight of the new batch ([`crate::Momentum::weight_of_new`]). It is μ and v as
    /// rounded to f32 that [`ChannelHealth`] tells of, and that must be finite under
    /// [`NonFinitePolicy::SkipRunningUpdate`].
    ///
    /// # Errors
    /// [`Error::WrongLength`] for a slice of another length, [`Error::OneSample`] and [`Error::EmptyBatch`] by policy,
    /// [`Error::MissingBatchesTracked`], [`Error::UselessActivationMask`]. Nothing is written then.
    pub fn training<T: Element>(&self, plan: &Plan, buffers: TrainingBuffers<'_, T>) -> Result<(), Error> {
        self.check(plan)?;
        let (problem, convention) = (plan.problem, self.descriptor.convention);
        let channels = u64::from(problem.channels);
        let TrainingBuffers {
            input,
            output,
            gamma,
            beta,
            mut running,
            mut saved,
            residual,
            activation_mask,
            mut health,
        } = buffers;
        let activation = self.descriptor.activation;
        let mut forward = Forward { activation, input, output, gamma, beta, residual, activation_mask };
        forward.check(problem)?;
        check_optional("saved", saved.as_deref(), channels)?;
        check_optional("health", health.as_deref(), channels)?;
        if let Some(running) = &running {
            check_length("running.mean", running.mean, channels)?;
            check_length("running.variance", running.variance, channels)?;
            if running.batches_tracked.is_none() && convention.momentum == crate::Momentum::CumulativeAverage {
                return Err(Error::MissingBatchesTracked);
            }
        }
        match (problem.count(), convention.empty_batch, convention.one_sample) {
            (0, EmptyBatchPolicy::Error, _) => return Err(Error::EmptyBatch),
            (0, EmptyBatchPolicy::Skip, _) => return Ok(()),
            (1, _, OneSamplePolicy::Error) => return Err(Error::OneSample),
            (1, _, OneSamplePolicy::SkipRunningUpdate) => running = None,
            _ => {}
        }
        let tracked = running.as_ref().and_then(|running| running.batches_tracked.as_deref().copied());
        let weight = convention.momentum.weight_of_new(u64::from(tracked.unwrap_or(0)));
        let factor = convention.running_variance.factor(problem.count());

        forward.clear_mask();
        for channel in 0..problem.channels as usize {
            let Moments { mean, variance } = moments(problem, input, channel);
            let inverse = inverse_deviation(variance, convention.epsilon);
            forward.channel(problem, channel, mean, inverse);
            let report = channel_health(mean, variance);
            // What the running variance takes must be finite too.
            let skip = convention.non_finite == NonFinitePolicy::SkipRunningUpdate
                && !channel_health(mean, variance * factor).is_finite();
            if let Some(running) = running.as_mut().filter(|_| !skip) {
                let blend =
                    |old: T::Parameter, new: f64| T::Parameter::from_f64((1.0 - weight) * old.to_f64() + weight * new);
                running.mean[channel] = blend(running.mean[channel], mean);
                running.variance[channel] = blend(running.variance[channel], variance * factor);
            }
            if let Some(health) = &mut health {
                health[channel] = report;
            }
            if let Some(saved) = &mut saved {
                let pivot = f32::from_f64(mean);
                let offset = mean - f64::from(pivot);
                saved[channel] = ChannelStatistics {
                    pivot,
                    offset: if offset.is_nan() { 0.0 } else { f32::from_f64(offset) },
                    inverse_deviation: f32::from_f64(inverse),
                    variance: f32::from_f64(variance),
                };
            }
        }
        if let Some(tracked) = running.and_then(|running| running.batches_tracked) {
            *tracked = tracked.saturating_add(1);
        }
        Ok(())
    }
}
