//! The dispatches of each operation.

mod backward;
mod forward;
mod laid;
mod options;
mod parts;
mod statistics;

#[cfg(test)]
pub(crate) use options::CompanionUse;
pub(crate) use options::{
    BackwardOptions, Derivative, Fixed, FoldOptions, GradientMode, InferenceOptions, Sequences, TrainingOptions,
};

use super::Plan;
use super::geometry::narrow;
use crate::Error;
use crate::convention::{EmptyBatchPolicy, OneSamplePolicy, SegmentRunning};

/// Segments whose statistics one invocation adds to the running ones, within the loops that every driver allows.
pub(super) const MAX_SEGMENTS_OF_RUNNING: u64 = 60_000;

/// Whether the one-sample policy applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OneSample {
    Checked,
    Unchecked,
}

impl Plan {
    /// Whether the policies admit a batch with so many elements a channel.
    fn admit(&self, count: u64, one_sample: OneSample) -> Result<(), Error> {
        let convention = &self.descriptor.convention;
        match count {
            0 if convention.empty_batch == EmptyBatchPolicy::Error => Err(Error::EmptyBatch),
            1 if one_sample == OneSample::Checked && convention.one_sample == OneSamplePolicy::Error => {
                Err(Error::OneSample)
            }
            _ => Ok(()),
        }
    }

    fn check_mask(&self, mask: bool) -> Result<(), Error> {
        let activation = self.descriptor.activation;
        if mask && !activation.is_piecewise_linear() {
            Err(Error::UselessActivationMask { activation })
        } else {
            Ok(())
        }
    }

    /// Whether segments share the running statistics.
    fn shares_running(&self) -> bool {
        self.batch.segments() > 1 && self.descriptor.convention.segment_running != SegmentRunning::Separate
    }

    /// The segments, where they fit an index.
    fn segment_count(&self) -> u32 {
        narrow(self.batch.segments())
    }
}
