//! One batch in several parts: over devices, processes or buffers. Each part is a plan's batch; what is merged is small.

use super::MAX_SEGMENTS_OF_RUNNING;
use super::options::{BackwardOptions, Fixed, Fused, GradientMode, TrainingOptions, flag, parameter_flags};
use crate::Error;
use crate::convention::SegmentRunning;
use crate::plan::kernel::{Elementwise, Kernel, Normalizer, Operation, Reduction};
use crate::plan::operation::forward::count_batches;
use crate::plan::{Dispatch, Params, Plan};

/// Parts that an invocation counts 28 times and merges, within the loops that every driver allows.
const MAX_PARTS: u64 = 2048;

impl Plan {
    /// statistics → moments.
    pub(crate) fn part_moments(&self, valid: bool) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.batch;
        if laid.count() > u64::from(u32::MAX) {
            return Err(Error::TooManyForMoments { count: laid.count() });
        }
        let valid = valid && laid.count() > 0;
        if valid {
            self.check_valid()?;
        }
        let windows = laid.windows_apart();
        let params = Params { flags: flag(valid, Params::HAS_VALID), ..laid.params(self) };
        let reduction = Reduction::Statistics;
        let mut dispatches = laid.reduce_windows(self, &windows, reduction, Fixed::default(), params, [0; 2])?;
        dispatches.push(laid.finalize(self, Kernel::PartMoments, laid.slots_of(&windows), params)?);
        Ok(dispatches)
    }

    /// Moments of parts to those of all.
    pub(crate) fn merge_moments(&self, parts: u64) -> Result<Vec<Dispatch>, Error> {
        let params = Params { parts: part_count(parts)?, ..self.batch.params(self) };
        Ok(vec![self.batch.finalize(self, Kernel::MergeMoments, parts, params)?])
    }

    /// Records and running statistics from the moments of all parts [→ running statistics that segments share] [→ count] [→ health].
    pub(crate) fn conclude_moments(&self, parts: u64, options: TrainingOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_running(&options)?;
        let laid = &self.batch;
        let parts_of = Params { parts: part_count(parts)?, ..self.running_params(&options) };
        let updates_apart = options.running && self.shares_running();
        let conclusion = Params {
            flags: parts_of.flags & !Params::HAS_VALID
                | Params::SAVES_STATISTICS
                | flag(options.running && !updates_apart, Params::UPDATES_RUNNING)
                | flag(options.renormalization, Params::RENORMALIZES)
                | flag(self.shares_running(), Params::SHARES_RUNNING),
            ..parts_of
        };
        let mut dispatches = vec![laid.finalize(self, Kernel::ConcludeMoments, parts, conclusion)?];
        let mut batches = 1;
        if updates_apart {
            let segments = laid.segments();
            // The parts of every segment are counted twice.
            let most = MAX_SEGMENTS_OF_RUNNING / (1 + 2 * parts);
            if segments > most {
                return Err(Error::TooManySegments { segments, most });
            }
            let flags = parts_of.flags & !Params::HAS_VALID;
            let params = Params { flags, segments: self.segment_count(), ..parts_of };
            let channels = u64::from(self.descriptor.channels);
            dispatches.push(self.for_each(Kernel::UpdateRunningFromParts, channels, params)?);
            if self.descriptor.convention.segment_running == SegmentRunning::InTurn {
                batches = self.segment_count();
            }
        }
        if options.running && options.batches_tracked {
            dispatches.push(count_batches(batches));
        }
        if options.health {
            dispatches.push(laid.finalize(self, Kernel::ReportHealth, 1, laid.params(self))?);
        }
        Ok(dispatches)
    }

    /// As [`Plan::conclude_moments`], then coefficients → normalise, if this part has an element.
    pub(crate) fn training_from_parts(&self, parts: u64, options: TrainingOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_mask(options.mask)?;
        let laid = &self.batch;
        let mut dispatches = self.conclude_moments(parts, options)?;
        if laid.count() == 0 {
            return Ok(dispatches);
        }
        if options.valid {
            self.check_valid()?;
        }
        let windows = laid.windows(Operation::Training)?;
        let Fused { fusion, fixed } = Fused::forward(options.residual, options.mask);
        let parameters = flag(options.gamma, Params::HAS_GAMMA)
            | flag(options.beta, Params::HAS_BETA)
            | flag(options.renormalization, Params::RENORMALIZES);
        let prepare = Params { flags: parameters, ..laid.params(self) };
        dispatches.push(laid.finalize(self, Kernel::Prepare(Normalizer::Saved), 1, prepare)?);
        let map = Elementwise::Normalize(Normalizer::Prepared, fusion);
        let params = Params { flags: flag(options.valid, Params::HAS_VALID), ..laid.params(self) };
        dispatches.extend(laid.map_windows(self, &windows, map, fixed, params)?);
        Ok(dispatches)
    }

    /// coefficients → gradient sums → those of the part, and its dgamma and dbeta [→ gradients that segments share].
    pub(crate) fn part_gradients(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.batch;
        self.check_part_backward(&options)?;
        let own = BackwardOptions {
            input_gradient: GradientMode::Omit,
            residual_gradient: GradientMode::Omit,
            valid: options.valid && laid.count() > 0,
            ..options
        };
        let windows = laid.windows_apart();
        let fused = Fused::backward(self.descriptor.activation, &own);
        let common = flag(own.valid, Params::HAS_VALID) | flag(own.renormalization, Params::RENORMALIZES);
        let with = |flags: u32| Params { flags: flags | common, ..laid.params(self) };
        let mut dispatches = Vec::new();
        if laid.count() > 0 {
            let prepare = Kernel::Prepare(Normalizer::Saved);
            dispatches.push(laid.finalize(self, prepare, 1, with(parameter_flags(&own)))?);
            let reduction = Reduction::GradientSums(Normalizer::Prepared, fused.fusion);
            dispatches.extend(laid.reduce_windows(self, &windows, reduction, fused.fixed, with(0), [0; 2])?);
        }
        let params = with(laid.sum_flags(&own));
        let sums = laid.finalize(self, Kernel::PartGradientSums, laid.slots_of(&windows), params)?;
        dispatches.push(Dispatch { per_instance: laid.segments() > 1, ..sums });
        self.share_gradients(laid, &own, dispatches)
    }

    /// Gradient sums of parts to those of all.
    pub(crate) fn merge_gradient_sums(&self, parts: u64) -> Result<Vec<Dispatch>, Error> {
        let params = Params { parts: part_count(parts)?, ..self.batch.params(self) };
        Ok(vec![self.batch.finalize(self, Kernel::MergeGradientSums, parts, params)?])
    }

    /// coefficients → gradient means from the sums of all parts → map; nothing where this part has no element.
    pub(crate) fn backward_from_parts(
        &self,
        sums: u64,
        moments: u64,
        options: BackwardOptions,
    ) -> Result<Vec<Dispatch>, Error> {
        let laid = &self.batch;
        self.check_part_backward(&options)?;
        part_count(sums)?;
        let parts = part_count(moments)?;
        if !options.wants_map() {
            return Err(Error::NoGradientRequested);
        }
        if laid.count() == 0 {
            return Ok(Vec::new());
        }
        let windows = laid.windows(Operation::Backward)?;
        let fused = Fused::backward(self.descriptor.activation, &options);
        let common = flag(options.valid, Params::HAS_VALID) | flag(options.renormalization, Params::RENORMALIZES);
        let with = |flags: u32| Params { flags: flags | common, parts, ..laid.params(self) };
        let prepare = Kernel::Prepare(Normalizer::Saved);
        let mut dispatches = vec![
            laid.finalize(self, prepare, 1, with(parameter_flags(&options)))?,
            laid.finalize(self, Kernel::ConcludeGradientSums, sums, with(0))?,
        ];
        let map = Elementwise::InputGradient(fused.fusion);
        let params = with(parameter_flags(&options));
        dispatches.extend(laid.map_windows(self, &windows, map, fused.fixed, params)?);
        Ok(dispatches)
    }

    fn check_part_backward(&self, options: &BackwardOptions) -> Result<(), Error> {
        if !options.saved {
            return Err(Error::MissingSavedStatistics);
        }
        self.check_sources(options)?;
        if options.valid && self.batch.count() > 0 {
            self.check_valid()?;
        }
        Ok(())
    }
}

fn part_count(parts: u64) -> Result<u32, Error> {
    match u32::try_from(parts) {
        Ok(count) if (1..=MAX_PARTS).contains(&parts) => Ok(count),
        _ => Err(Error::TooManyParts { parts, most: MAX_PARTS }),
    }
}
