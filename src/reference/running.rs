//! Running statistics, and how training updates them.

use super::training::{Moments, channel_health};
use super::{Element, Plan, check_length};
use crate::Error;
use crate::convention::{Convention, Momentum, NonFinitePolicy, OneSamplePolicy, SegmentRunning};

/// Running statistics that training updates: C values each, or one for each instance under
/// [`SegmentRunning::Separate`].
#[derive(Debug)]
pub struct RunningStatistics<'a, P> {
    /// Running mean.
    pub mean: &'a mut [P],
    /// Running variance.
    pub variance: &'a mut [P],
    /// Batches seen so far; increased when given, needed by [`crate::Momentum::CumulativeAverage`].
    pub batches_tracked: Option<&'a mut u32>,
}

impl<P: Element> RunningStatistics<'_, P> {
    pub(super) fn check(&self, plan: &Plan, convention: Convention) -> Result<(), Error> {
        check_length("running.mean", self.mean, plan.recorded.instances())?;
        check_length("running.variance", self.variance, plan.recorded.instances())?;
        if self.batches_tracked.is_none() && convention.momentum == Momentum::CumulativeAverage {
            return Err(Error::MissingBatchesTracked);
        }
        Ok(())
    }

    /// The mean and variance at an index.
    pub(super) fn get(&self, index: usize) -> [f64; 2] {
        [self.mean[index].to_f64(), self.variance[index].to_f64()]
    }

    /// Takes the statistics of a batch, those of every instance in order.
    pub(super) fn update(&mut self, plan: &Plan, convention: Convention, batch: &[Moments]) {
        let segmentation = plan.segmentation;
        let tracked = u64::from(self.batches_tracked.as_deref().copied().unwrap_or(0));
        let weight = |earlier: u64| convention.momentum.weight_of_new(tracked + earlier);
        let taken = |instance: u64| taken(&batch[instance as usize], convention);
        let mut batches = 1;
        match convention.segment_running {
            SegmentRunning::InTurn => {
                batches = segmentation.segments();
                // Those of a channel stand in the order of segments.
                for instance in 0..segmentation.instances() {
                    let channel = segmentation.channel_of(instance) as usize;
                    self.blend(
                        channel,
                        weight(segmentation.segment_of(instance)),
                        taken(instance),
                        convention.non_finite,
                    );
                }
            }
            SegmentRunning::Averaged => {
                for channel in 0..plan.problem.channels {
                    let instances = (0..segmentation.segments()).map(|segment| segmentation.instance(segment, channel));
                    let average = average(instances.filter_map(taken));
                    self.blend(channel as usize, weight(0), average, convention.non_finite);
                }
            }
            SegmentRunning::Separate => {
                for instance in 0..segmentation.instances() {
                    self.blend(instance as usize, weight(0), taken(instance), convention.non_finite);
                }
            }
        }
        if let Some(tracked) = &mut self.batches_tracked {
            **tracked = tracked.saturating_add(u32::try_from(batches).unwrap_or(u32::MAX));
        }
    }

    /// Takes a new mean and variance, if there are any, unless they are not finite and the policy says to leave such
    /// ones out.
    fn blend(&mut self, index: usize, weight: f64, new: Option<[f64; 2]>, policy: NonFinitePolicy) {
        let Some([mean, variance]) = new else { return };
        if policy == NonFinitePolicy::SkipRunningUpdate && !channel_health(mean, variance).is_finite() {
            return;
        }
        let blend = |old: P, new: f64| P::from_f64((1.0 - weight) * old.to_f64() + weight * new);
        self.mean[index] = blend(self.mean[index], mean);
        self.variance[index] = blend(self.variance[index], variance);
    }
}

/// What running statistics take of an instance: its mean, and its variance by convention; nothing of one without a
/// valid element, and of one with a single valid element only what the policy lets them take.
fn taken(moments: &Moments, convention: Convention) -> Option<[f64; 2]> {
    let taken = match moments.count {
        0 => false,
        1 => convention.one_sample == OneSamplePolicy::PopulationVariance,
        _ => true,
    };
    taken.then(|| [moments.mean, moments.variance * convention.running_variance.factor(moments.count)])
}

/// The averages of means and of variances; nothing of none.
fn average(taken: impl Iterator<Item = [f64; 2]>) -> Option<[f64; 2]> {
    let (mut sums, mut count) = ([0.0; 2], 0.0);
    for [mean, variance] in taken {
        sums = [sums[0] + mean, sums[1] + variance];
        count += 1.0;
    }
    (count > 0.0).then(|| sums.map(|sum| sum / count))
}
