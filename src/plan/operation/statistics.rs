//! Operations on statistics and on which elements count: moments of many batches, folding, valid elements.

use super::options::{CompanionUse, FoldOptions, flag};
use crate::Error;
use crate::convention::RunningVariance;
use crate::plan::geometry::{fold, narrow};
use crate::plan::kernel::{Elementwise, Fusion, Kernel, Normalizer, Reduction};
use crate::plan::{Dispatch, Laid, Params, Plan};
use crate::problem::PositionAxis;

/// Positions that an invocation looks at to count the valid ones.
const POSITIONS_PER_INVOCATION: u64 = 64;

impl Plan {
    /// statistics → merge into the moments of the batches before.
    pub(crate) fn accumulate_moments(&self, valid: bool) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.recorded;
        let Some(geometries) = &laid.geometries else { return Ok(Vec::new()) };
        let geometry = &geometries.reduction;
        let kernel = Kernel::Reduce(Reduction::Statistics, laid.walk(geometry, valid));
        let params = Params { flags: flag(valid, Params::HAS_VALID), ..laid.params(self) };
        Ok(vec![
            laid.over_tensor(self, kernel, CompanionUse::None, geometry, params)?,
            laid.finalize(self, Kernel::AccumulateMoments, geometry.slots, params)?,
        ])
    }

    /// Moments to running statistics; of the shape only its segments matter, if they have running statistics of their own.
    pub(crate) fn population(&self) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.recorded;
        let unbiased = self.descriptor.convention.running_variance == RunningVariance::Unbiased;
        let params = Params { flags: flag(unbiased, Params::UNBIASED), ..laid.params(self) };
        Ok(vec![laid.finalize(self, Kernel::Population, 1, params)?])
    }

    /// Weights are scaled like a gradient through frozen statistics, and the bias is normalised.
    pub(crate) fn fold(&self, options: FoldOptions) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.recorded;
        if laid.segments() > 1 {
            return Err(Error::SegmentedFold);
        }
        let flags = flag(options.gamma, Params::HAS_GAMMA)
            | flag(options.beta, Params::HAS_BETA)
            | flag(options.bias, Params::HAS_LAYER_BIAS);
        let params = Params { flags, ..laid.params(self) };
        let mut dispatches = vec![laid.finalize(self, Kernel::FoldBias, 1, params)?];
        if let Some(geometries) = &laid.geometries {
            let geometry = &geometries.inference;
            let scale = Elementwise::FrozenInputGradient(Normalizer::Running, Fusion::None);
            let scale = Kernel::Apply(scale, laid.walk(geometry, false));
            dispatches.push(laid.over_tensor(self, scale, CompanionUse::None, geometry, params)?);
        }
        Ok(dispatches)
    }

    /// pack → mark → count, for the segments of training, and for those of running statistics if they are others. `axes` are
    /// those of sequence and step, where lengths are given; else there is a flag for every position.
    pub(crate) fn valid(&self, axes: Option<[PositionAxis; 2]>) -> Result<Vec<Dispatch>, Error> {
        if self.problem.count() == 0 {
            return Ok(Vec::new());
        }
        let required = axes.map_or_else(|| self.positions_size(), |[sequence, _]| 4 * sequence.length);
        let available = self.profile.max_storage_buffer_binding_size;
        if required > available {
            return Err(Error::LimitExceeded { limit: "max_storage_buffer_binding_size", required, available });
        }
        let mut params = Params {
            extent: narrow(self.problem.count()),
            inner: narrow(self.problem.inner),
            outer_elements: narrow(self.problem.inner * u64::from(self.problem.channels)),
            ..self.batch.params(self)
        };
        if let Some([sequence, step]) = axes {
            params.flags |= Params::FROM_LENGTHS;
            params.sequence_stride = narrow(sequence.stride);
            params.sequence_length = narrow(sequence.length);
            params.step_stride = narrow(step.stride);
            params.step_length = narrow(step.length);
        }
        let words = self.problem.count().div_ceil(32).max(4 * self.valid_records());
        let mut dispatches = vec![
            self.for_each(Kernel::PackValid, words, params)?,
            self.for_each(Kernel::MarkValid, self.problem.elements().div_ceil(32), params)?,
            self.count_valid(&self.batch)?,
        ];
        if self.shares_running() {
            dispatches.push(self.count_valid(&self.recorded)?);
        }
        Ok(dispatches)
    }

    /// An invocation each.
    pub(super) fn for_each(&self, kernel: Kernel, count: u64, params: Params) -> Result<Dispatch, Error> {
        let size = self.profile.finalize_workgroup_size();
        let groups = count.div_ceil(u64::from(size));
        Ok(Dispatch {
            kernel,
            companion: CompanionUse::None,
            workgroup_size: size,
            workgroups: fold(groups, &self.profile)?,
            params: Params { groups: narrow(groups), ..params },
            per_instance: false,
        })
    }

    fn count_valid(&self, laid: &Laid) -> Result<Dispatch, Error> {
        let size = self.profile.finalize_workgroup_size();
        let split = (u64::from(size) * POSITIONS_PER_INVOCATION).min(laid.count());
        let groups = laid.segments() * laid.count().div_ceil(split);
        let params = Params {
            groups: narrow(groups),
            extent: narrow(laid.count()),
            split_extent: narrow(split),
            ..laid.params(self)
        };
        Ok(Dispatch {
            kernel: Kernel::CountValid,
            companion: CompanionUse::None,
            workgroup_size: size,
            workgroups: fold(groups, &self.profile)?,
            params,
            per_instance: false,
        })
    }
}
