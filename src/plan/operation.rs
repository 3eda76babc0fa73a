//! The dispatches of each operation.

use super::geometry::{FinalizeGeometry, Geometry, narrow};
use super::kernel::{Access, Elementwise, Family, Kernel, Normalizer, Operation, Reduction};
use super::params::Params;
use super::strategy::Choice;
use super::{Dispatch, Geometries, Plan};
use crate::convention::{EmptyBatchPolicy, Momentum, OneSamplePolicy};
use crate::{Error, Problem};

/// Which optional parts training forward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrainingOptions {
    pub gamma: bool,
    pub beta: bool,
    /// Keep the batch statistics for backward.
    pub saved: bool,
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
    /// One dispatch [→ count], or statistics [→ merge] → merge and normalise.
    pub(crate) fn training(&self, options: TrainingOptions) -> Result<Vec<Dispatch>, Error> {
        let convention = &self.descriptor.convention;
        if options.running && !options.batches_tracked && convention.momentum == Momentum::CumulativeAverage {
            return Err(Error::MissingBatchesTracked);
        }
        let Some(geometries) = self.batch(OneSample::Checked)? else { return Ok(Vec::new()) };
        let updates = options.running
            && !(self.problem.count() == 1 && convention.one_sample == OneSamplePolicy::SkipRunningUpdate);
        let counts = flag(updates && options.batches_tracked, Params::COUNTS_BATCH);
        let cumulative = convention.momentum == Momentum::CumulativeAverage;
        // The weights of a cumulative average come from the counter on the device.
        let weight = if cumulative { 0.0 } else { convention.momentum.weight_of_new(0) };
        let params = Params {
            variance_factor: convention.running_variance.factor(self.problem.count()) as f32,
            weight_of_new: weight as f32,
            weight_of_old: (1.0 - weight) as f32,
            flags: flag(options.gamma, Params::HAS_GAMMA)
                | flag(options.beta, Params::HAS_BETA)
                | flag(options.saved, Params::SAVES_STATISTICS)
                | flag(updates, Params::UPDATES_RUNNING)
                | flag(cumulative, Params::CUMULATIVE),
            ..self.params()
        };
        // Workgroups of one dispatch know no order, so none may count while another reads the count.
        let separate = cumulative && counts != 0 && !matches!(geometries.training, Choice::Split { .. });
        let mut dispatches =
            self.reduce_and_map(Operation::Training, geometries, params, if separate { 0 } else { counts })?;
        if separate {
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
        Ok(vec![self.apply(Elementwise::Normalize, geometries, flags)?])
    }

    /// [statistics → finalize →] one dispatch, or gradient sums → merge and map, or gradient sums → finalize.
    pub(crate) fn backward(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        check_requested(&options)?;
        let Some(geometries) = self.batch(OneSample::Checked)? else { return self.empty_gradients(&options) };
        let mut dispatches = Vec::new();
        if !options.saved {
            dispatches.push(self.reduce(Reduction::Statistics, geometries, self.params())?);
            let params = Params { flags: Params::SAVES_STATISTICS, ..self.params() };
            dispatches.push(self.finalize(Kernel::FinalizeStatistics, geometries.reduction.slots, params)?);
        }
        dispatches.extend(self.gradients(Operation::Backward, geometries, &options)?);
        Ok(dispatches)
    }

    /// As [`Plan::backward`], without statistics; the input gradient alone needs no reduction.
    pub(crate) fn backward_frozen(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        check_requested(&options)?;
        let Some(geometries) = self.batch(OneSample::Unchecked)? else { return self.empty_gradients(&options) };
        if options.wants_sums() {
            self.gradients(Operation::FrozenBackward, geometries, &options)
        } else {
            let flags = input_gradient_flags(&options);
            Ok(vec![self.apply(Elementwise::FrozenInputGradient, geometries, flags)?])
        }
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

    fn gradients(
        &self,
        operation: Operation,
        geometries: &Geometries,
        options: &BackwardOptions,
    ) -> Result<Vec<Dispatch>, Error> {
        if options.input_gradient == GradientMode::Omit {
            return Ok(vec![
                self.reduce(operation.reduction(), geometries, self.params())?,
                self.finalize_gradients(geometries.reduction.slots, options)?,
            ]);
        }
        let flags = input_gradient_flags(options) | sum_flags(options);
        self.reduce_and_map(operation, geometries, Params { flags, ..self.params() }, 0)
    }

    /// An operation by the strategy that was chosen for it; `counts` is the flag of the dispatch that counts the batch.
    fn reduce_and_map(
        &self,
        operation: Operation,
        geometries: &Geometries,
        params: Params,
        counts: u32,
    ) -> Result<Vec<Dispatch>, Error> {
        let access = |family| self.access(family);
        let counting = |params: Params| Params { flags: params.flags | counts, ..params };
        match geometries.choice(operation) {
            Choice::Split { reduction, elementwise, merges_apart } => {
                let reduce = Kernel::Reduce(operation.reduction(), reduction.family, access(reduction.family));
                let apply = Kernel::MergeAndApply(operation, elementwise.family, access(elementwise.family));
                let mut dispatches = vec![self.over_tensor(reduce, reduction, counting(self.params()))?];
                let mut second = self.over_tensor(apply, elementwise, params)?;
                if *merges_apart {
                    let merge = match operation.reduction() {
                        Reduction::Statistics => Reduction::Statistics,
                        // Sums are sums, whatever the gradient was multiplied with.
                        Reduction::GradientSums(_) => Reduction::GradientSums(Normalizer::Saved),
                    };
                    dispatches.push(self.finalize(Kernel::MergePartials(merge), reduction.slots, self.params())?);
                    elementwise.describe_merge(1, &self.profile, &mut second.params);
                    second.params.partials_base = narrow(reduction.slots * u64::from(self.problem.channels) + 1);
                } else {
                    elementwise.describe_merge(reduction.slots, &self.profile, &mut second.params);
                }
                dispatches.push(second);
                Ok(dispatches)
            }
            Choice::ChannelLoop(geometry) => {
                let kernel = Kernel::ChannelLoop(operation, geometry.family, access(geometry.family));
                Ok(vec![self.over_tensor(kernel, geometry, counting(params))?])
            }
            Choice::Resident(geometry, trips) => {
                let kernel = Kernel::Resident(operation, geometry.family, access(geometry.family), *trips);
                Ok(vec![self.over_tensor(kernel, geometry, counting(params))?])
            }
        }
    }

    /// Without elements the sums are 0; the input gradient is empty.
    fn empty_gradients(&self, options: &BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        if options.wants_sums() { Ok(vec![self.finalize_gradients(0, options)?]) } else { Ok(Vec::new()) }
    }

    fn finalize_gradients(&self, slots: u64, options: &BackwardOptions) -> Result<Dispatch, Error> {
        let params = Params { flags: sum_flags(options), ..self.params() };
        self.finalize(Kernel::FinalizeGradients, slots, params)
    }

    fn reduce(&self, reduction: Reduction, geometries: &Geometries, params: Params) -> Result<Dispatch, Error> {
        let geometry = &geometries.reduction;
        self.over_tensor(Kernel::Reduce(reduction, geometry.family, self.access(geometry.family)), geometry, params)
    }

    fn apply(&self, map: Elementwise, geometries: &Geometries, flags: u32) -> Result<Dispatch, Error> {
        let geometry = &geometries.inference;
        let kernel = Kernel::Apply(map, geometry.family, self.access(geometry.family));
        self.over_tensor(kernel, geometry, Params { flags, ..self.params() })
    }

    fn over_tensor(&self, kernel: Kernel, geometry: &Geometry, mut params: Params) -> Result<Dispatch, Error> {
        geometry.describe(self.problem, &self.profile, &mut params);
        let workgroups = geometry.workgroups(&self.profile)?;
        Ok(Dispatch { kernel, workgroup_size: geometry.workgroup_size, workgroups, params })
    }

    fn finalize(&self, kernel: Kernel, slots: u64, mut params: Params) -> Result<Dispatch, Error> {
        let geometry = FinalizeGeometry::new(self.problem.channels, slots, &self.profile);
        geometry.describe(&mut params, slots);
        let workgroups = geometry.workgroups(&self.profile)?;
        Ok(Dispatch { kernel, workgroup_size: geometry.workgroup_size, workgroups, params })
    }

    fn access(&self, family: Family) -> Access {
        let Problem { inner, .. } = self.problem;
        match family {
            _ if !self.problem.elements().is_multiple_of(4) => Access::Scalar,
            Family::Rows if !inner.is_multiple_of(4) => Access::Shared,
            Family::Rows | Family::Columns => Access::Whole,
        }
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

/// What becomes of dgamma and dbeta.
fn sum_flags(options: &BackwardOptions) -> u32 {
    let of = |mode, wanted: u32, accumulates: u32| match mode {
        GradientMode::Omit => 0,
        GradientMode::Overwrite => wanted,
        GradientMode::Accumulate => wanted | accumulates,
    };
    of(options.gamma_gradient, Params::WANTS_GAMMA_GRADIENT, Params::ACCUMULATES_GAMMA_GRADIENT)
        | of(options.beta_gradient, Params::WANTS_BETA_GRADIENT, Params::ACCUMULATES_BETA_GRADIENT)
}

const fn flag(set: bool, flag: u32) -> u32 {
    if set { flag } else { 0 }
}
