//! Training forward: batch statistics, outputs, running statistics, health.

use super::forward::Forward;
use super::instances::Instances;
use super::renormalization::{Correction, Renormalization};
use super::running::RunningStatistics;
use super::{BatchNorm, Element, Plan, check_length, check_optional, inverse_deviation};
use crate::convention::{EmptyBatchPolicy, OneSamplePolicy, SegmentRunning};
use crate::{ChannelHealth, ChannelStatistics, Error};

/// What training forward reads and writes. Tensors are row-major in the plan's shape.
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
    /// A record for each instance, for backward; overwritten when given.
    pub saved: Option<&'a mut [ChannelStatistics]>,
    /// z, M·C elements, added before the activation.
    pub residual: Option<&'a [T]>,
    /// ⌈M·C/32⌉ words, overwritten when given: bit `e % 32` of word `e / 32` is 1 where t > 0 for element `e`, and 0
    /// at padding and past the last element. For activations that are piecewise linear only.
    pub activation_mask: Option<&'a mut [u32]>,
    /// Whether a position, `o·inner + i` of the plan's problem, holds anything but padding; absent: all do.
    pub valid: Option<&'a [bool]>,
    /// A report for each instance, overwritten when given; an empty batch leaves them as they are.
    pub health: Option<&'a mut [ChannelHealth]>,
    /// Corrects the batch towards the running statistics, which are needed then.
    pub renormalization: Option<Renormalization<'a>>,
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
            valid: None,
            health: None,
            renormalization: None,
        }
    }
}

/// Exact (f64) statistics of one instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    /// W.
    pub count: u64,
    pub mean: f64,
    pub variance: f64,
}

/// `μ = (1/W)·Σx`, `v = (1/W)·Σ(x − μ)²`, in two passes, the mean corrected by the sum of the residuals; zeros without
/// a valid element.
///
/// The sums run over `x − x₀` with x₀ the instance's first value (exact for close values), so a constant instance has
/// exactly its value as mean and 0 as variance.
pub(super) fn moments<T: Element>(instances: Instances<'_>, input: &[T], instance: usize) -> Moments {
    let values = instances.valid(instance).map(|index| input[index].to_f64());
    let Some(pivot) = values.clone().next() else { return Moments { count: 0, mean: 0.0, variance: 0.0 } };
    let elements = instances.count(instance);
    let count = elements as f64;
    let rough = pivot + values.clone().map(|x| x - pivot).sum::<f64>() / count;
    let mean = rough + values.clone().map(|x| x - rough).sum::<f64>() / count;
    // Infinite values make the correction undefined; the first pass already says what the mean is.
    let mean = if mean.is_nan() { values.clone().sum::<f64>() / count } else { mean };
    let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    Moments { count: elements, mean, variance }
}

/// What the statistics, as a device has them in f32, say of an instance.
pub(super) fn channel_health(mean: f64, variance: f64) -> ChannelHealth {
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
    /// y = f( γ·(x − μ)·r + β + z )                                    0 at padding
    /// running_mean     ← (1 − a)·running_mean     + a·μ
    /// running_variance ← (1 − a)·running_variance + a·v·k             k = W/(W − 1) or 1, by convention
    /// ```
    ///
    /// `a` is the momentum as the weight of the new batch ([`crate::Momentum::weight_of_new`]). It is μ and v·k as
    /// rounded to f32 that must be finite under [`NonFinitePolicy::SkipRunningUpdate`](crate::NonFinitePolicy), and μ
    /// and v as rounded to f32 that [`ChannelHealth`] tells of.
    ///
    /// # Segments
    ///
    /// Every instance has μ, v and r of its own; γ and β are those of its channel. The running statistics take S of
    /// them:
    ///
    /// | [`SegmentRunning`] | | `batches_tracked` |
    /// |---|---|---|
    /// | `InTurn` | the update above for segment after segment; a cumulative average weighs segment i with 1/(n + i + 1) | + S |
    /// | `Averaged` | one update, with the averages of μ and of v·k over segments | + 1 |
    /// | `Separate` | each instance its own | + 1 |
    ///
    /// Under [`NonFinitePolicy::SkipRunningUpdate`](crate::NonFinitePolicy) a segment that is not finite is left out;
    /// where segments are averaged, a channel whose average is not finite is.
    ///
    /// # Padding
    ///
    /// Where `valid` is false, nothing of x and z is looked at, and sums run over the W elements that are left of the
    /// instance. Without any (W = 0) the instance has μ = v = 0, and the running statistics take nothing of it, as if
    /// the segment were not there; batches are counted all the same. With W = 1 they take v = 0 under
    /// [`OneSamplePolicy::PopulationVariance`] and nothing otherwise; it is no error, since a device cannot be asked.
    /// The policies for one sample and none go by the shape, W being its M there.
    ///
    /// # Renormalization
    ///
    /// With the running statistics as they were before the batch (of the instance under `Separate`, of its channel
    /// otherwise):
    ///
    /// ```text
    /// R = clamp( √(v + ε)/√(running_variance + ε), 1/r_max, r_max )
    /// D = clamp( (μ − running_mean)/√(running_variance + ε), −d_max, d_max )
    /// y = f( γ·(x̂·R + D) + β + z )
    /// ```
    ///
    /// They are used whether or not the batch updates them.
    ///
    /// # Errors
    /// [`Error::WrongLength`] for a slice of another length, [`Error::OneSample`] and [`Error::EmptyBatch`] by policy,
    /// [`Error::MissingBatchesTracked`], [`Error::MissingRunningStatistics`], [`Error::UselessActivationMask`]. Nothing
    /// is written then.
    pub fn training<T: Element>(&self, plan: &Plan, buffers: TrainingBuffers<'_, T>) -> Result<(), Error> {
        self.train(plan, None, buffers)
    }

    /// By the statistics of the input, or by others.
    pub(super) fn train<T: Element>(
        &self,
        plan: &Plan,
        statistics: Option<Vec<Moments>>,
        buffers: TrainingBuffers<'_, T>,
    ) -> Result<(), Error> {
        self.check(plan)?;
        let (problem, segmentation, convention) = (plan.problem, plan.segmentation, self.descriptor.convention);
        let TrainingBuffers {
            input,
            output,
            gamma,
            beta,
            mut running,
            saved,
            residual,
            activation_mask,
            valid,
            health,
            renormalization,
        } = buffers;
        let activation = self.descriptor.activation;
        let mut forward = Forward { activation, input, output, gamma, beta, residual, activation_mask };
        forward.check(problem)?;
        let instances = Instances::new(problem, segmentation, valid)?;
        check_optional("saved", saved.as_deref(), segmentation.instances())?;
        check_optional("health", health.as_deref(), segmentation.instances())?;
        if let Some(running) = &running {
            running.check(plan, convention)?;
        }
        if let Some(renormalization) = &renormalization {
            check_length("renormalization.saved", renormalization.saved, segmentation.instances())?;
            if running.is_none() {
                return Err(Error::MissingRunningStatistics);
            }
        }
        let own = statistics.is_none();
        match (segmentation.count(), convention.empty_batch, convention.one_sample) {
            _ if !own => {}
            (0, EmptyBatchPolicy::Error, _) => return Err(Error::EmptyBatch),
            (0, EmptyBatchPolicy::Skip, _) => return Ok(()),
            (1, _, OneSamplePolicy::Error) => return Err(Error::OneSample),
            _ => {}
        }
        let batch = statistics
            .unwrap_or_else(|| (0..instances.len()).map(|instance| moments(instances, input, instance)).collect());
        let inverse = |variance| inverse_deviation(variance, convention.epsilon);
        let limits = renormalization.as_ref().map(|renormalization| renormalization.limits);
        let corrections: Vec<Option<Correction>> = (batch.iter().enumerate())
            .map(|(instance, moments)| {
                let recorded = match convention.segment_running {
                    SegmentRunning::Separate => instance,
                    SegmentRunning::InTurn | SegmentRunning::Averaged => instances.channel_of(instance),
                };
                let recorded = running.as_ref()?.get(recorded);
                Some(Correction::new([moments.mean, moments.variance], recorded, convention.epsilon, limits?))
            })
            .collect();

        forward.clear_mask();
        for (instance, (moments, correction)) in batch.iter().zip(&corrections).enumerate() {
            forward.instance(instances, instance, (moments.mean, inverse(moments.variance)), *correction);
        }
        let skips = own && segmentation.count() == 1 && convention.one_sample == OneSamplePolicy::SkipRunningUpdate;
        if let Some(running) = running.as_mut().filter(|_| !skips) {
            running.update(plan, convention, &batch);
        }
        for (record, correction) in
            renormalization.into_iter().flat_map(|to| to.saved).zip(corrections.iter().flatten())
        {
            *record = correction.saved();
        }
        for (report, moments) in health.into_iter().flatten().zip(&batch) {
            *report = channel_health(moments.mean, moments.variance);
        }
        for (record, moments) in saved.into_iter().flatten().zip(&batch) {
            let pivot = f32::from_f64(moments.mean);
            let offset = moments.mean - f64::from(pivot);
            *record = ChannelStatistics {
                pivot,
                offset: if offset.is_nan() { 0.0 } else { f32::from_f64(offset) },
                inverse_deviation: f32::from_f64(inverse(moments.variance)),
                variance: f32::from_f64(moments.variance),
            };
        }
        Ok(())
    }
}
