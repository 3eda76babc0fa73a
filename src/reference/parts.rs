//! One batch in several parts: over devices, processes or buffers.

use super::backward::{BackwardBuffers, Through};
use super::instances::Instances;
use super::training::{Moments, TrainingBuffers, moments};
use super::{BatchNorm, Element, Plan, check_length};
use crate::{ChannelGradientSums, ChannelMoments, Error};

impl BatchNorm {
    /// The moments of a part of a batch: W, μ and `S = Σ(x − μ)²` of every instance; zeros without an element.
    ///
    /// # Errors
    /// [`Error::WrongLength`], and [`Error::TooManyForMoments`] for 2^32 elements and more. Nothing is written then.
    pub fn part_moments<T: Element>(
        &self,
        plan: &Plan,
        input: &[T],
        valid: Option<&[bool]>,
        into: &mut [ChannelMoments],
    ) -> Result<(), Error> {
        self.check(plan)?;
        check_length("input", input, plan.problem.elements())?;
        check_length("moments", into, plan.segmentation.instances())?;
        let instances = Instances::new(plan.problem, plan.segmentation, valid)?;
        let count = plan.segmentation.count();
        if count > u64::from(u32::MAX) {
            return Err(Error::TooManyForMoments { count });
        }
        for (instance, record) in into.iter_mut().enumerate() {
            *record = recorded(&moments(instances, input, instance));
        }
        Ok(())
    }

    /// The moments of several parts as those of one part that holds all their elements. `parts` are the records of part after
    /// part.
    ///
    /// With `W = Σ wᵢ` and means and square sums `μᵢ`, `Sᵢ` of the parts:
    ///
    /// ```text
    /// μ = Σ wᵢ·μᵢ / W        S = Σ ( Sᵢ + wᵢ·(μᵢ − μ)² )
    /// ```
    ///
    /// (Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*, 1979.) Parts
    /// without elements count for nothing, whatever the rest of their records holds.
    ///
    /// # Errors
    /// [`Error::WrongLength`] unless `parts` are the records of one part or more. Nothing is written then.
    pub fn merge_moments(
        &self,
        plan: &Plan,
        parts: &[ChannelMoments],
        merged: &mut [ChannelMoments],
    ) -> Result<(), Error> {
        self.check(plan)?;
        check_length("merged", merged, plan.segmentation.instances())?;
        for (record, moments) in merged.iter_mut().zip(all_moments(plan, parts)?) {
            *record = recorded(&moments);
        }
        Ok(())
    }

    /// Training forward of one part of a batch, by the moments of all parts: [`BatchNorm::training`] of the whole, for the
    /// elements of this part.
    ///
    /// The policies for one sample and none do not apply, since a device that follows this knows the count too late. Running
    /// statistics take nothing of an instance without an element, and of one with a single element only what
    /// [`OneSamplePolicy::PopulationVariance`](crate::OneSamplePolicy) lets them.
    ///
    /// # Errors
    /// As [`BatchNorm::training`], but for its policies.
    pub fn training_from_parts<T: Element>(
        &self,
        plan: &Plan,
        parts: &[ChannelMoments],
        buffers: TrainingBuffers<'_, T>,
    ) -> Result<(), Error> {
        self.check(plan)?;
        self.train(plan, Some(all_moments(plan, parts)?), buffers)
    }

    /// Σh and Σh·x̂ of one part of a batch, x̂ by the statistics of all of it; and of `buffers`, dγ and dβ of this part. dx and dz
    /// are left alone.
    ///
    /// # Errors
    /// As [`BatchNorm::backward`], but for its policies, and [`Error::MissingSavedStatistics`].
    pub fn part_gradients<T: Element>(
        &self,
        plan: &Plan,
        sums: &mut [ChannelGradientSums],
        buffers: BackwardBuffers<'_, T>,
    ) -> Result<(), Error> {
        self.check(plan)?;
        check_length("sums", sums, plan.segmentation.instances())?;
        if buffers.saved.is_none() {
            return Err(Error::MissingSavedStatistics);
        }
        let own = BackwardBuffers { input_gradient: None, residual_gradient: None, ..buffers };
        let found = self.gradients(plan, own, |_| Through::Own, || Ok(()))?;
        for (record, [sum, product]) in sums.iter_mut().zip(found) {
            *record = ChannelGradientSums { sum: sum as f32, product: product as f32 };
        }
        Ok(())
    }

    /// The gradient sums of several parts as those of one part that holds all their elements: they add up. `parts` are the records
    /// of part after part.
    ///
    /// # Errors
    /// [`Error::WrongLength`] unless `parts` are the records of one part or more. Nothing is written then.
    pub fn merge_gradient_sums(
        &self,
        plan: &Plan,
        parts: &[ChannelGradientSums],
        merged: &mut [ChannelGradientSums],
    ) -> Result<(), Error> {
        self.check(plan)?;
        check_length("merged", merged, plan.segmentation.instances())?;
        let instances = check_parts("parts", plan, parts)?;
        for (instance, record) in merged.iter_mut().enumerate() {
            let of = |value| sum_over(parts, instances, instance, value) as f32;
            *record = ChannelGradientSums { sum: of(|sums| sums.sum), product: of(|sums| sums.product) };
        }
        Ok(())
    }

    /// dx and dz of one part of a batch, by the gradient sums of all parts and the counts in their moments:
    ///
    /// ```text
    /// dz = h        dx = γ·r·( h − Σh/W − x̂·Σh·x̂/W )        sums and W over all parts
    /// ```
    ///
    /// dγ and dβ are left alone.
    ///
    /// # Errors
    /// As [`BatchNorm::part_gradients`], and [`Error::NoGradientRequested`] without dx and dz.
    pub fn backward_from_parts<T: Element>(
        &self,
        plan: &Plan,
        sums: &[ChannelGradientSums],
        parts: &[ChannelMoments],
        buffers: BackwardBuffers<'_, T>,
    ) -> Result<(), Error> {
        self.check(plan)?;
        if buffers.input_gradient.is_none() && buffers.residual_gradient.is_none() {
            return Err(Error::NoGradientRequested);
        }
        let instances = check_parts("sums", plan, sums)?;
        let means: Vec<[f64; 2]> = all_moments(plan, parts)?
            .iter()
            .enumerate()
            .map(|(instance, moments)| {
                let of = |value| sum_over(sums, instances, instance, value) / moments.count.max(1) as f64;
                [of(|sums| sums.sum), of(|sums| sums.product)]
            })
            .collect();
        if buffers.saved.is_none() {
            return Err(Error::MissingSavedStatistics);
        }
        let own = BackwardBuffers { gamma_gradient: None, beta_gradient: None, ..buffers };
        self.gradients(plan, own, |instance| Through::Whole(means[instance]), || Ok(()))?;
        Ok(())
    }
}

/// Refuses what is not the records of one part or more; how many a part has.
fn check_parts<T>(binding: &'static str, plan: &Plan, parts: &[T]) -> Result<usize, Error> {
    let instances = plan.segmentation.instances() as usize;
    check_length(binding, parts, parts.len().div_ceil(instances).max(1) as u64 * instances as u64)?;
    Ok(instances)
}

fn sum_over(
    parts: &[ChannelGradientSums],
    instances: usize,
    instance: usize,
    value: fn(&ChannelGradientSums) -> f32,
) -> f64 {
    parts.iter().skip(instance).step_by(instances).map(|sums| f64::from(value(sums))).sum()
}

/// Statistics as they are recorded, the mean in two parts.
fn recorded(moments: &Moments) -> ChannelMoments {
    let pivot = moments.mean as f32;
    let offset = (moments.mean - f64::from(pivot)) as f32;
    ChannelMoments {
        count: u32::try_from(moments.count).unwrap_or(u32::MAX),
        pivot,
        offset: if offset.is_nan() { 0.0 } else { offset },
        m2: (moments.variance * moments.count as f64) as f32,
    }
}

/// The statistics of every instance over all parts.
fn all_moments(plan: &Plan, parts: &[ChannelMoments]) -> Result<Vec<Moments>, Error> {
    let instances = check_parts("moments", plan, parts)?;
    let merged = |instance: usize| {
        let own = || parts.iter().skip(instance).step_by(instances).filter(|part| part.count > 0);
        let mean_of = |part: &ChannelMoments| f64::from(part.pivot) + f64::from(part.offset);
        let count: u64 = own().map(|part| u64::from(part.count)).sum();
        if count == 0 {
            return Moments { count: 0, mean: 0.0, variance: 0.0 };
        }
        let sum: f64 = own().map(|part| f64::from(part.count) * mean_of(part)).sum();
        let mean = sum / count as f64;
        let square =
            |part: &ChannelMoments| f64::from(part.m2) + f64::from(part.count) * (mean_of(part) - mean).powi(2);
        Moments { count, mean, variance: own().map(square).sum::<f64>() / count as f64 }
    };
    Ok((0..instances).map(merged).collect())
}
