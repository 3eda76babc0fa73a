//! Operations on statistics and on which elements count: moments of many batches, folding, valid elements.

use super::options::{Fixed, FoldOptions, GradientMode, Sequences, flag};
use crate::Error;
use crate::convention::RunningVariance;
use crate::plan::geometry::{fold, narrow};
use crate::plan::kernel::{Elementwise, Fusion, Kernel, Normalizer, Reduction};
use crate::plan::window::Cell;
use crate::plan::{Dispatch, Laid, Params, Plan};

/// Positions that an invocation looks at to count the valid ones.
const POSITIONS_PER_INVOCATION: u64 = 64;

impl Plan {
    /// statistics → merge into the moments of the batches before.
    pub(crate) fn accumulate_moments(&self, valid: bool) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.recorded;
        if laid.count() == 0 {
            return Ok(Vec::new());
        }
        if laid.count() > u64::from(u32::MAX) {
            return Err(Error::TooManyForMoments { count: laid.count() });
        }
        if valid {
            self.check_valid()?;
        }
        let windows = laid.windows_apart();
        let params = Params { flags: flag(valid, Params::HAS_VALID), ..laid.params(self) };
        let reduction = Reduction::Statistics;
        let mut dispatches = laid.reduce_windows(self, &windows, reduction, Fixed::default(), params, [0; 2])?;
        dispatches.push(laid.finalize(self, Kernel::AccumulateMoments, laid.slots_of(&windows), params)?);
        Ok(dispatches)
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
        let written = Fixed { input_gradient: GradientMode::Overwrite, ..Fixed::default() };
        let scale = Elementwise::FrozenInputGradient(Normalizer::Running, Fusion::None);
        dispatches.extend(laid.map_windows(self, &laid.windows_apart(), scale, written, params)?);
        Ok(dispatches)
    }

    /// pack → mark → count, for the segments of training, and for those of running statistics if they are others. `axes` are
    /// those of sequence and step, where lengths are given; else there is a flag for every position.
    pub(crate) fn valid(&self, sequences: Option<Sequences>) -> Result<Vec<Dispatch>, Error> {
        if self.problem.count() == 0 {
            return Ok(Vec::new());
        }
        self.check_valid()?;
        let required = sequences.map_or_else(|| self.positions_size(), |sequences| 4 * sequences.axes[0].length);
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
        if let Some(Sequences { axes: [sequence, step], first_step }) = sequences {
            params.flags |= Params::FROM_LENGTHS;
            params.sequence_stride = narrow(sequence.stride);
            params.sequence_length = narrow(sequence.length);
            params.step_stride = narrow(step.stride);
            params.step_length = narrow(step.length);
            params.first_step = first_step;
        }
        let words = self.problem.count().div_ceil(32).max(4 * self.valid_records());
        let mut dispatches = vec![
            self.for_each(Kernel::PackValid, words, params)?,
            self.for_each(Kernel::MarkValid, self.problem.elements().div_ceil(32), params)?,
        ];
        dispatches.extend(self.count_valid(&self.batch)?);
        if self.shares_running() {
            dispatches.extend(self.count_valid(&self.recorded)?);
        }
        Ok(dispatches)
    }

    /// The bits of all elements are one binding, and are counted by 32 bits.
    pub(super) fn check_valid(&self) -> Result<(), Error> {
        let available = self.profile.max_storage_buffer_binding_size.min(1 << 29);
        let required = self.valid_size();
        if required > available {
            return Err(Error::LimitExceeded { limit: "max_storage_buffer_binding_size", required, available });
        }
        Ok(())
    }

    /// An invocation each.
    pub(super) fn for_each(&self, kernel: Kernel, count: u64, params: Params) -> Result<Dispatch, Error> {
        let size = self.profile.finalize_workgroup_size();
        let groups = count.div_ceil(u64::from(size));
        Ok(Dispatch {
            kernel,
            region: None,
            fixed: Fixed::default(),
            workgroup_size: size,
            workgroups: fold(groups, &self.profile)?,
            params: Params { groups: narrow(groups), ..params },
            per_instance: false,
        })
    }

    fn count_valid(&self, laid: &Laid) -> Result<Vec<Dispatch>, Error> {
        let whole = Cell { index: 0, offset: 0, count: laid.count() };
        let mut dispatches = vec![self.count_valid_of(laid, whole, 0)?];
        if laid.cells() > 1 {
            let mut counted = 0;
            for window in laid.windows_apart().iter() {
                if window.cell.index == counted {
                    counted += 1;
                    dispatches.push(self.count_valid_of(laid, window.cell, laid.segments() * counted)?);
                }
            }
        }
        Ok(dispatches)
    }

    /// In a cell of every segment, into records of their own.
    fn count_valid_of(&self, laid: &Laid, cell: Cell, records: u64) -> Result<Dispatch, Error> {
        let size = self.profile.finalize_workgroup_size();
        let split = (u64::from(size) * POSITIONS_PER_INVOCATION).min(cell.count);
        let groups = laid.segments() * cell.count.div_ceil(split);
        let mut params = Params {
            groups: narrow(groups),
            extent: narrow(cell.count),
            split_extent: narrow(split),
            window_base: narrow(cell.offset),
            ..laid.params(self)
        };
        params.valid_base += narrow(records);
        Ok(Dispatch {
            kernel: Kernel::CountValid,
            region: None,
            fixed: Fixed::default(),
            workgroup_size: size,
            workgroups: fold(groups, &self.profile)?,
            params,
            per_instance: false,
        })
    }
}
