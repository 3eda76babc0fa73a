//! The dispatches of each operation.

use super::geometry::{FinalizeGeometry, Geometry, narrow};
use super::kernel::{Elementwise, Kernel, Normalizer, Reduction};
use super::params::Params;
use super::workspace::stride;
use super::{Dispatch, Geometries, Plan};
use crate::Error;
use crate::convention::{EmptyBatchPolicy, Momentum, OneSamplePolicy};

/// Which optional parts training forward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrainingOptions {
    pub gamma: bool,
    pub beta: bool,
    /// Update the running statistics.
    pub running: bool,
    pub batches_tracked: bool,
}

/// What becomes of one gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GradientMode {
    #[default]
    Omit,
    Overwrite,
    Accumulate,
}

/// Which optional parts backward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BackwardOptions {
    pub gamma: bool,
    /// Statistics were saved by forward; else they are taken from the input again.
    pub saved: bool,
    pub input_gradient: GradientMode,
    pub gamma_gradient: GradientMode,
    pub beta_gradient: GradientMode,
}

impl BackwardOptions {
    fn wants_sums(&self) -> bool {
        self.gamma_gradient != GradientMode::Omit || self.beta_gradient != GradientMode::Omit
    }
}

impl Plan {
    /// statistics → finalize → normalise [→ count].
    pub(crate) fn training(&self, options: TrainingOptions) -> Result<Vec<Dispatch>, Error> {
        let convention = &self.descriptor.convention;
        if options.running && !options.batches_tracked && convention.momentum == Momentum::CumulativeAverage {
            return Err(Error::MissingBatchesTracked);
        }
        let Some(geometries) = self.batch(OneSample::Checked)? else { return Ok(Vec::new()) };
        let updates = options.running
            && !(self.problem.count() == 1 && convention.one_sample == OneSamplePolicy::SkipRunningUpdate);
        let flags = flag(options.gamma, Params::HAS_GAMMA) | flag(options.beta, Params::HAS_BETA);
        let mut dispatches = self.statistics(geometries, updates)?.to_vec();
        dispatches.push(self.apply(Elementwise::Normalize(Normalizer::Saved), geometries, flags)?);
        if updates && options.batches_tracked {
            dispatches.push(Dispatch {
                kernel: Kernel::CountBatch,
                workgroup_size: 1,
                workgroups: [1, 1, 1],
                params: Params::default(),
            });
        }
        Ok(dispatches)
    }

    /// normalise.
    pub(crate) fn inference(&self, gamma: bool, beta: bool) -> Result<Vec<Dispatch>, Error> {
        let Some(geometries) = &self.geometries else { return Ok(Vec::new()) };
        let flags = flag(gamma, Params::HAS_GAMMA) | flag(beta, Params::HAS_BETA);
        Ok(vec![self.apply(Elementwise::Normalize(Normalizer::Running), geometries, flags)?])
    }

    /// [statistics → finalize →] gradient sums → finalize [→ input gradient].
    pub(crate) fn backward(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        check_requested(&options)?;
        let Some(geometries) = self.batch(OneSample::Checked)? else { return self.empty_gradients(&options) };
        let mut dispatches = Vec::new();
        if !options.saved {
            dispatches.extend(self.statistics(geometries, false)?);
        }
        dispatches.extend(self.gradient_sums(Normalizer::Saved, geometries, &options)?);
        if options.input_gradient != GradientMode::Omit {
            let flags = input_gradient_flags(&options);
            dispatches.push(self.apply(Elementwise::InputGradient, geometries, flags)?);
        }
        Ok(dispatches)
    }

    /// [gradient sums → finalize] [→ input gradient]; the input gradient alone needs no reduction.
    pub(crate) fn backward_frozen(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        check_requested(&options)?;
        let Some(geometries) = self.batch(OneSample::Unchecked)? else { return self.empty_gradients(&options) };
        let mut dispatches = Vec::new();
        if options.wants_sums() {
            dispatches.extend(self.gradient_sums(Normalizer::Running, geometries, &options)?);
        }
        if options.input_gradient != GradientMode::Omit {
            let flags = input_gradient_flags(&options);
            dispatches.push(self.apply(Elementwise::FrozenInputGradient, geometries, flags)?);
        }
        Ok(dispatches)
    }

    /// The geometries of a batch that the policies admit, `None` for an empty one.
    fn batch(&self, one_sample: OneSample) -> Result<Option<&Geometries>, Error> {
        let convention = &self.descriptor.convention;
        match self.problem.count() {
            0 if convention.empty_batch == EmptyBatchPolicy::Error => Err(Error::EmptyBatch),
            1 if one_sample == OneSample::Checked && convention.one_sample == OneSamplePolicy::Error => {
                Err(Error::OneSample)
            }
            _ => Ok(self.geometries.as_ref()),
        }
    }

    fn statistics(&self, geometries: &Geometries, updates_running: bool) -> Result<[Dispatch; 2], Error> {
        let convention = &self.descriptor.convention;
        let cumulative = convention.momentum == Momentum::CumulativeAverage;
        // The weights of a cumulative average come from the counter on the device.
        let weight = if cumulative { 0.0 } else { convention.momentum.weight_of_new(0) };
        let finalize = Params {
            variance_factor: convention.running_variance.factor(self.problem.count()) as f32,
            weight_of_new: weight as f32,
            weight_of_old: (1.0 - weight) as f32,
            flags: flag(updates_running, Params::UPDATES_RUNNING) | flag(cumulative, Params::CUMULATIVE),
            ..self.params()
        };
        Ok([
            self.reduce(Reduction::Statistics, geometries)?,
            self.finalize(Kernel::FinalizeStatistics, geometries.reduction.slots, finalize)?,
        ])
    }

    fn gradient_sums(
        &self,
        normalizer: Normalizer,
        geometries: &Geometries,
        options: &BackwardOptions,
    ) -> Result<[Dispatch; 2], Error> {
        Ok([
            self.reduce(Reduction::GradientSums(normalizer), geometries)?,
            self.finalize_gradients(geometries.reduction.slots, options)?,
        ])
    }

    /// Without elements the sums are 0; the input gradient is empty.
    fn empty_gradients(&self, options: &BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        if options.wants_sums() { Ok(vec![self.finalize_gradients(0, options)?]) } else { Ok(Vec::new()) }
    }

    fn finalize_gradients(&self, slots: u64, options: &BackwardOptions) -> Result<Dispatch, Error> {
        let mode_flags = |mode, wanted: u32, accumulates: u32| match mode {
            GradientMode::Omit => 0,
            GradientMode::Overwrite => wanted,
            GradientMode::Accumulate => wanted | accumulates,
        };
        let flags =
            mode_flags(options.gamma_gradient, Params::WANTS_GAMMA_GRADIENT, Params::ACCUMULATES_GAMMA_GRADIENT)
                | mode_flags(options.beta_gradient, Params::WANTS_BETA_GRADIENT, Params::ACCUMULATES_BETA_GRADIENT);
        self.finalize(Kernel::FinalizeGradients, slots, Params { flags, ..self.params() })
    }

    fn reduce(&self, reduction: Reduction, geometries: &Geometries) -> Result<Dispatch, Error> {
        let geometry = &geometries.reduction;
        let kernel = Kernel::Reduce(reduction, geometry.family, geometries.access);
        self.over_tensor(kernel, geometry, self.params())
    }

    fn apply(&self, map: Elementwise, geometries: &Geometries, flags: u32) -> Result<Dispatch, Error> {
        let geometry = &geometries.elementwise;
        let kernel = Kernel::Apply(map, geometry.family, geometries.access);
        self.over_tensor(kernel, geometry, Params { flags, ..self.params() })
    }

    fn over_tensor(&self, kernel: Kernel, geometry: &Geometry, mut params: Params) -> Result<Dispatch, Error> {
        geometry.describe(&mut params);
        let workgroups = geometry.workgroups(&self.profile)?;
        Ok(Dispatch { kernel, workgroup_size: geometry.workgroup_size, workgroups, params })
    }

    fn finalize(&self, kernel: Kernel, slots: u64, mut params: Params) -> Result<Dispatch, Error> {
        let geometry = FinalizeGeometry::new(self.problem.channels, slots, &self.profile);
        geometry.describe(&mut params, slots);
        let workgroups = geometry.workgroups(&self.profile)?;
        Ok(Dispatch { kernel, workgroup_size: geometry.workgroup_size, workgroups, params })
    }

    /// What all kernels share.
    fn params(&self) -> Params {
        let count = self.problem.count();
        let inverse = if count == 0 { 0.0 } else { 1.0 / count as f64 };
        Params {
            elements: narrow(self.problem.elements()),
            units: narrow(self.problem.elements().div_ceil(4)),
            channels: self.problem.channels,
            inner: narrow(self.problem.inner.min(u64::from(u32::MAX))),
            stride: narrow(stride(self.problem.channels)),
            epsilon: self.descriptor.convention.epsilon as f32,
            inverse_count: inverse as f32,
            inverse_count_residual: (inverse - f64::from(inverse as f32)) as f32,
            ..Params::default()
        }
    }
}

/// Whether the one-sample policy applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OneSample {
    Checked,
    Unchecked,
}

fn check_requested(options: &BackwardOptions) -> Result<(), Error> {
    if !options.wants_sums() && options.input_gradient == GradientMode::Omit {
        return Err(Error::NoGradientRequested);
    }
    Ok(())
}

fn input_gradient_flags(options: &BackwardOptions) -> u32 {
    flag(options.gamma, Params::HAS_GAMMA)
        | flag(options.input_gradient == GradientMode::Accumulate, Params::ACCUMULATES_INPUT_GRADIENT)
}

const fn flag(set: bool, flag: u32) -> u32 {
    if set { flag } else { 0 }
}
