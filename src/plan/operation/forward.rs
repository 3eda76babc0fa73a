//! Training forward and inference.

use super::options::{Fixed, Fused, InferenceOptions, TrainingOptions, flag};
use super::{MAX_SEGMENTS_OF_RUNNING, OneSample};
use crate::Error;
use crate::convention::{Momentum, NonFinitePolicy, OneSamplePolicy, RunningVariance, SegmentRunning};
use crate::plan::geometry::narrow;
use crate::plan::kernel::{Elementwise, Kernel, Normalizer, Operation, Reduction};
use crate::plan::strategy::Choice;
use crate::plan::{Dispatch, Params, Plan, Work};

impl Plan {
    /// One dispatch [→ count], or statistics [→ merge] → merge and normalise; with padding or renormalization statistics →
    /// conclude → normalise; [→ running statistics that segments share → count;] [→ health].
    pub(crate) fn training(&self, options: TrainingOptions) -> Result<Vec<Dispatch>, Error> {
        let convention = &self.descriptor.convention;
        self.check_running(&options)?;
        self.check_mask(options.mask)?;
        let count = self.batch.count();
        self.admit(count, OneSample::Checked)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let updates = options.running && !(count == 1 && convention.one_sample == OneSamplePolicy::SkipRunningUpdate);
        let updates_apart = updates && self.shares_running();
        let updates_here = updates && !updates_apart;
        let weights = self.running_params(&options);
        let keeps = options.saved || options.health || updates_apart;
        let params = Params {
            flags: flag(options.gamma, Params::HAS_GAMMA)
                | flag(options.beta, Params::HAS_BETA)
                | flag(keeps, Params::SAVES_STATISTICS)
                | flag(updates_here, Params::UPDATES_RUNNING)
                | weights.flags,
            ..weights
        };
        let counts = flag(updates_here && options.batches_tracked, Params::COUNTS_BATCH);
        let fused = Fused::forward(options.residual, options.mask);
        if options.valid {
            self.check_valid()?;
        }
        let mut dispatches = if options.valid || options.renormalization || self.batch.in_windows() {
            self.prepared_training(&options, fused, params, counts)?
        } else {
            self.plain_training(fused, params, counts)?
        };
        if updates_apart {
            let segments = self.batch.segments();
            if segments > MAX_SEGMENTS_OF_RUNNING {
                return Err(Error::TooManySegments { segments, most: MAX_SEGMENTS_OF_RUNNING });
            }
            let params = Params { segments: self.segment_count(), ..weights };
            let channels = u64::from(self.descriptor.channels);
            dispatches.push(self.for_each(Kernel::UpdateRunning, channels, params)?);
            if options.batches_tracked {
                let in_turn = convention.segment_running == SegmentRunning::InTurn;
                dispatches.push(count_batches(if in_turn { self.segment_count() } else { 1 }));
            }
        }
        if options.health {
            dispatches.push(self.batch.finalize(self, Kernel::ReportHealth, 1, self.batch.params(self))?);
        }
        Ok(dispatches)
    }

    pub(super) fn check_running(&self, options: &TrainingOptions) -> Result<(), Error> {
        let cumulative = self.descriptor.convention.momentum == Momentum::CumulativeAverage;
        if options.running && !options.batches_tracked && cumulative {
            return Err(Error::MissingBatchesTracked);
        }
        if options.renormalization && !options.renormalizes_to_running {
            return Err(Error::MissingRunningStatistics);
        }
        Ok(())
    }

    fn plain_training(&self, fused: Fused, params: Params, counts: u32) -> Result<Vec<Dispatch>, Error> {
        let Work::Whole(geometries) = &self.batch.work else { return Ok(Vec::new()) };
        let choice = self.batch.choice(self, Operation::Training, fused, geometries)?;
        // Workgroups of one dispatch know no order, so none may count while another reads the count.
        let cumulative = params.flags & Params::CUMULATIVE != 0;
        let separate = cumulative && counts != 0 && !matches!(choice, Choice::Split { .. });
        let counts_with = if separate { 0 } else { counts };
        let mut dispatches =
            self.batch.reduce_and_map(self, Operation::Training, fused, choice, params, counts_with)?;
        if separate {
            dispatches.push(count_batches(1));
        }
        Ok(dispatches)
    }

    fn prepared_training(
        &self,
        options: &TrainingOptions,
        fused: Fused,
        params: Params,
        counts: u32,
    ) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.batch;
        let windows = laid.windows(Operation::Training)?;
        let slots = laid.slots_of(&windows);
        let records_base = narrow(self.workspace.parameters_beside_statistics());
        let valid = flag(options.valid, Params::HAS_VALID);
        let parameters = params.flags & (Params::HAS_GAMMA | Params::HAS_BETA) | Params::RECORDS_PARAMETERS;
        let first = Params { flags: valid, records_base, ..laid.params(self) };
        let conclusion = Params {
            flags: params.flags
                | valid
                | flag(options.renormalization, Params::RENORMALIZES)
                | flag(self.shares_running(), Params::SHARES_RUNNING),
            ..params
        };
        let once = [parameters, counts];
        let mut dispatches =
            laid.reduce_windows(self, &windows, Reduction::Statistics, Fixed::default(), first, once)?;
        dispatches.push(laid.finalize(self, Kernel::ConcludeStatistics, slots, conclusion)?);
        let map = Elementwise::Normalize(Normalizer::Prepared, fused.fusion);
        let params = Params { flags: valid, ..laid.params(self) };
        dispatches.extend(laid.map_windows(self, &windows, map, fused.fixed, params)?);
        Ok(dispatches)
    }

    /// How running statistics are updated, whoever does it.
    pub(super) fn running_params(&self, options: &TrainingOptions) -> Params {
        let convention = &self.descriptor.convention;
        let cumulative = convention.momentum == Momentum::CumulativeAverage;
        // The weights of a cumulative average come from the counter on the device.
        let weight = if cumulative { 0.0 } else { convention.momentum.weight_of_new(0) };
        Params {
            variance_factor: convention.running_variance.factor(self.batch.count()) as f32,
            weight_of_new: weight as f32,
            weight_of_old: (1.0 - weight) as f32,
            flags: flag(cumulative, Params::CUMULATIVE)
                | flag(options.valid, Params::HAS_VALID)
                | flag(convention.non_finite == NonFinitePolicy::SkipRunningUpdate, Params::GUARDS_RUNNING)
                | flag(convention.running_variance == RunningVariance::Unbiased, Params::UNBIASED)
                | flag(convention.one_sample == OneSamplePolicy::PopulationVariance, Params::UPDATES_FROM_ONE)
                | flag(convention.segment_running == SegmentRunning::Averaged, Params::AVERAGES_SEGMENTS),
            ..self.batch.params(self)
        }
    }

    /// normalise.
    pub(crate) fn inference(&self, options: InferenceOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_mask(options.mask)?;
        if options.mask && options.valid {
            return Err(Error::PaddedActivationMask);
        }
        let laid = &self.recorded;
        if options.valid {
            self.check_valid()?;
        }
        let flags = flag(options.gamma, Params::HAS_GAMMA)
            | flag(options.beta, Params::HAS_BETA)
            | flag(options.valid, Params::HAS_VALID);
        let Fused { fusion, fixed } = Fused::forward(options.residual, options.mask);
        let map = Elementwise::Normalize(Normalizer::Running, fusion);
        laid.map_windows(self, &laid.windows_apart(), map, fixed, Params { flags, ..laid.params(self) })
    }
}

pub(super) fn count_batches(batches: u32) -> Dispatch {
    Dispatch {
        kernel: Kernel::CountBatch,
        region: None,
        fixed: Fixed::default(),
        workgroup_size: 1,
        workgroups: [1, 1, 1],
        params: Params { segments: batches, ..Params::default() },
        per_instance: false,
    }
}
