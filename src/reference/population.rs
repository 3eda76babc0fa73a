//! Statistics of many batches.

use super::instances::Instances;
use super::training::{Moments, moments};
use super::{BatchNorm, Element, Plan, check_length};
use crate::convention::{RunningVariance, SegmentRunning};
use crate::{ChannelMoments, Error};

impl BatchNorm {
    /// Adds a batch to the moments of the batches before it.
    ///
    /// With `n₁`, `μ₁`, `S₁` before and `n₂`, `μ₂`, `S₂` of the batch (S = Σ(x − μ)²), `n = n₁ + n₂` and `δ = μ₂ − μ₁`:
    ///
    /// ```text
    /// μ = μ₁ + δ·n₂/n        S = S₁ + S₂ + δ²·n₁·n₂/n
    /// ```
    ///
    /// (Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*, 1979.) An
    /// empty batch adds nothing, and neither does padding, which is not looked at.
    ///
    /// There is a record for each running value: C, or one for each instance under [`SegmentRunning::Separate`].
    ///
    /// # Errors
    /// [`Error::WrongLength`]. Nothing is written then.
    pub fn accumulate<T: Element>(
        &self,
        plan: &Plan,
        input: &[T],
        valid: Option<&[bool]>,
        into: &mut [ChannelMoments],
    ) -> Result<(), Error> {
        self.check(plan)?;
        let problem = plan.problem;
        check_length("input", input, problem.elements())?;
        check_length("moments", into, plan.recorded.instances())?;
        let instances = Instances::new(problem, plan.recorded, valid)?;
        for (instance, record) in into.iter_mut().enumerate() {
            let Moments { count: added, mean, variance } = moments(instances, input, instance);
            if added == 0 {
                continue;
            }
            let (before, count) = (f64::from(record.count), added as f64);
            let old_mean = f64::from(record.pivot) + f64::from(record.offset);
            let delta = if record.count == 0 { 0.0 } else { mean - old_mean };
            let start = if record.count == 0 { mean } else { old_mean };
            let merged = start + delta * count / (before + count);
            let m2 = f64::from(record.m2) + variance * count + delta * delta * before * count / (before + count);
            let pivot = f32::from_f64(merged);
            let offset = f32::from_f64(merged - f64::from(pivot));
            *record = ChannelMoments {
                count: record.count.saturating_add(u32::try_from(added).unwrap_or(u32::MAX)),
                pivot,
                offset: if offset.is_nan() { 0.0 } else { offset },
                m2: f32::from_f64(m2),
            };
        }
        Ok(())
    }

    /// Writes accumulated moments to the running statistics: the mean, and the variance `S/n`, or `S/(n − 1)` where the
    /// convention's running variance is unbiased and n > 1. Those of records without a sample are left as they are.
    ///
    /// There are C records and values, and under [`SegmentRunning::Separate`] any multiple of C.
    ///
    /// # Errors
    /// [`Error::WrongLength`]. Nothing is written then.
    pub fn population(
        &self,
        from: &[ChannelMoments],
        running_mean: &mut [f32],
        running_variance: &mut [f32],
    ) -> Result<(), Error> {
        let segments = match self.descriptor.convention.segment_running {
            SegmentRunning::Separate => (from.len() as u64).div_ceil(u64::from(self.descriptor.channels)).max(1),
            SegmentRunning::InTurn | SegmentRunning::Averaged => 1,
        };
        let records = segments * u64::from(self.descriptor.channels);
        check_length("moments", from, records)?;
        check_length("running_mean", running_mean, records)?;
        check_length("running_variance", running_variance, records)?;
        let unbiased = self.descriptor.convention.running_variance == RunningVariance::Unbiased;
        for (index, record) in from.iter().enumerate().filter(|(_, record)| record.count > 0) {
            let degrees = f64::from(if unbiased && record.count > 1 { record.count - 1 } else { record.count });
            running_mean[index] = f32::from_f64(f64::from(record.pivot) + f64::from(record.offset));
            running_variance[index] = f32::from_f64(f64::from(record.m2) / degrees);
        }
        Ok(())
    }
}
