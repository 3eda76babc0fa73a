//! The dispatches of each operation.

use super::geometry::{FinalizeGeometry, Geometry, narrow};
use super::kernel::{Access, Elementwise, Family, Fusion, Kernel, Normalizer, Operation, Reduction};
use super::params::Params;
use super::strategy::Choice;
use super::{Dispatch, Geometries, Plan};
use crate::activation::{Activation, ActivationSource};
use crate::convention::{EmptyBatchPolicy, Momentum, NonFinitePolicy, OneSamplePolicy, RunningVariance};
use crate::{Error, Problem};

/// Which optional parts training forward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrainingOptions {
    pub gamma: bool,
    pub beta: bool,
    pub residual: bool,
    /// Write the activation mask.
    pub mask: bool,
    /// Keep the batch statistics for backward.
    pub saved: bool,
    /// Update the running statistics.
    pub running: bool,
    pub batches_tracked: bool,
    pub health: bool,
}

/// Which optional parts inference has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InferenceOptions {
    pub gamma: bool,
    pub beta: bool,
    pub residual: bool,
    pub mask: bool,
}

/// Which optional parts folding has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FoldOptions {
    pub gamma: bool,
    pub beta: bool,
    pub bias: bool,
}

/// What becomes of one gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GradientMode {
    #[default]
    Omit,
    Overwrite,
    Accumulate,
}

/// What backward is given of forward's activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Derivative {
    #[default]
    Recompute,
    RecomputeWithResidual,
    Output,
    Mask,
    /// The output is there in place of the input.
    Inverted,
}

impl Derivative {
    const fn source(self) -> ActivationSource {
        match self {
            Self::Recompute | Self::RecomputeWithResidual => ActivationSource::Recompute,
            Self::Output | Self::Inverted => ActivationSource::Output,
            Self::Mask => ActivationSource::Mask,
        }
    }
}

/// What the companion tensor is to a kernel; the numbers of `shaders/common/companion.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CompanionUse {
    #[default]
    None = 0,
    Residual = 1,
    Output = 2,
}

/// Which optional parts backward has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BackwardOptions {
    pub gamma: bool,
    pub beta: bool,
    /// Statistics were saved by forward; else they are taken from the input again.
    pub saved: bool,
    /// The input is there; it always is but for frozen statistics.
    pub input: bool,
    pub derivative: Derivative,
    pub input_gradient: GradientMode,
    pub residual_gradient: GradientMode,
    pub gamma_gradient: GradientMode,
    pub beta_gradient: GradientMode,
}

impl BackwardOptions {
    fn wants_sums(&self) -> bool {
        self.gamma_gradient != GradientMode::Omit || self.beta_gradient != GradientMode::Omit
    }

    /// Whether a tensor is mapped to a tensor.
    fn wants_map(&self) -> bool {
        self.input_gradient != GradientMode::Omit || self.residual_gradient != GradientMode::Omit
    }
}

/// What is fused into an operation: the kernel, and what its companion tensor is.
#[derive(Clone, Copy, Debug)]
struct Fused {
    fusion: Fusion,
    companion: CompanionUse,
}

impl Fused {
    fn forward(residual: bool, mask: bool) -> Self {
        let fusion = match (mask, residual) {
            (true, _) => Fusion::Mask,
            (false, true) => Fusion::Companion,
            (false, false) => Fusion::None,
        };
        Self { fusion, companion: if residual { CompanionUse::Residual } else { CompanionUse::None } }
    }

    fn backward(activation: Activation, options: &BackwardOptions) -> Self {
        let returns_residual = options.residual_gradient != GradientMode::Omit;
        let (fusion, companion) = match options.derivative {
            Derivative::Inverted => (Fusion::Inverted, CompanionUse::None),
            // Without an activation h = g, whatever backward was given.
            _ if activation == Activation::Identity && returns_residual => (Fusion::Companion, CompanionUse::None),
            _ if activation == Activation::Identity => (Fusion::None, CompanionUse::None),
            Derivative::Recompute => (Fusion::Activation, CompanionUse::None),
            Derivative::RecomputeWithResidual => (Fusion::Companion, CompanionUse::Residual),
            Derivative::Output => (Fusion::Companion, CompanionUse::Output),
            Derivative::Mask => (Fusion::Mask, CompanionUse::None),
        };
        Self { fusion, companion }
    }
}

impl Plan {
    /// One dispatch [→ count], or statistics [→ merge] → merge and normalise; [→ health].
    pub(crate) fn training(&self, options: TrainingOptions) -> Result<Vec<Dispatch>, Error> {
        let convention = &self.descriptor.convention;
        if options.running && !options.batches_tracked && convention.momentum == Momentum::CumulativeAverage {
            return Err(Error::MissingBatchesTracked);
        }
        self.check_mask(options.mask)?;
        let Some(geometries) = self.batch(OneSample::Checked)? else { return Ok(Vec::new()) };
        let updates = options.running
            && !(self.problem.count() == 1 && convention.one_sample == OneSamplePolicy::SkipRunningUpdate);
        let counts = flag(updates && options.batches_tracked, Params::COUNTS_BATCH);
        let cumulative = convention.momentum == Momentum::CumulativeAverage;
        // The weights of a cumulative average come from the counter on the device.
        let weight = if cumulative { 0.0 } else { convention.momentum.weight_of_new(0) };
        let guards = convention.non_finite == NonFinitePolicy::SkipRunningUpdate;
        let params = Params {
            variance_factor: convention.running_variance.factor(self.problem.count()) as f32,
            weight_of_new: weight as f32,
            weight_of_old: (1.0 - weight) as f32,
            flags: flag(options.gamma, Params::HAS_GAMMA)
                | flag(options.beta, Params::HAS_BETA)
                | flag(options.saved || options.health, Params::SAVES_STATISTICS)
                | flag(updates, Params::UPDATES_RUNNING)
                | flag(cumulative, Params::CUMULATIVE)
                | flag(guards, Params::GUARDS_RUNNING),
            ..self.params()
        };
        let fused = Fused::forward(options.residual, options.mask);
        let choice = self.choice(Operation::Training, fused, geometries)?;
        // Workgroups of one dispatch know no order, so none may count while another reads the count.
        let separate = cumulative && counts != 0 && !matches!(choice, Choice::Split { .. });
        let counts_with = if separate { 0 } else { counts };
        let mut dispatches = self.reduce_and_map(Operation::Training, fused, choice, params, counts_with)?;
        if separate {
            dispatches.push(Dispatch {
                kernel: Kernel::CountBatch,
                companion: CompanionUse::None,
                workgroup_size: 1,
                workgroups: [1, 1, 1],
                params: Params::default(),
            });
        }
        if options.health {
            dispatches.push(self.finalize(Kernel::ReportHealth, 1, self.params())?);
        }
        Ok(dispatches)
    }

    /// normalise.
    pub(crate) fn inference(&self, options: InferenceOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_mask(options.mask)?;
        let Some(geometries) = &self.geometries else { return Ok(Vec::new()) };
        let flags = flag(options.gamma, Params::HAS_GAMMA) | flag(options.beta, Params::HAS_BETA);
        let Fused { fusion, companion } = Fused::forward(options.residual, options.mask);
        let params = Params { flags, ..self.params() };
        Ok(vec![self.apply(Elementwise::Normalize(fusion), companion, geometries, params)?])
    }

    /// [statistics → finalize →] one dispatch, or gradient sums → merge and map, or gradient sums → finalize.
    pub(crate) fn backward(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_backward(&options)?;
        let Some(geometries) = self.batch(OneSample::Checked)? else { return self.empty_gradients(&options) };
        let mut dispatches = Vec::new();
        if !options.saved {
            let geometry = &geometries.reduction;
            let kernel = Kernel::Reduce(Reduction::Statistics, geometry.family, self.access(geometry.family));
            dispatches.push(self.over_tensor(kernel, CompanionUse::None, geometry, self.params())?);
            let params = Params { flags: Params::SAVES_STATISTICS, ..self.params() };
            dispatches.push(self.finalize(Kernel::FinalizeStatistics, geometries.reduction.slots, params)?);
        }
        dispatches.extend(self.gradients(Operation::Backward, geometries, &options)?);
        Ok(dispatches)
    }

    /// As [`Plan::backward`], without statistics; the input gradient and that of the residual need no reduction.
    pub(crate) fn backward_frozen(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_backward(&options)?;
        let recomputes = self.descriptor.activation != Activation::Identity
            && options.derivative.source() == ActivationSource::Recompute;
        if !options.input && (options.gamma_gradient != GradientMode::Omit || recomputes) {
            return Err(Error::MissingInput);
        }
        let Some(geometries) = self.batch(OneSample::Unchecked)? else { return self.empty_gradients(&options) };
        if options.wants_sums() {
            return self.gradients(Operation::FrozenBackward, geometries, &options);
        }
        let Fused { fusion, companion } = Fused::backward(self.descriptor.activation, &options);
        let mut params = Params { flags: map_flags(&options), ..self.params() };
        let mut dispatches = Vec::new();
        if fusion.binds_more() {
            params.flags |= Params::RECORDS_PARAMETERS;
            dispatches.push(self.finalize(Kernel::Prepare, 1, params)?);
        }
        dispatches.push(self.apply(Elementwise::FrozenInputGradient(fusion), companion, geometries, params)?);
        Ok(dispatches)
    }

    /// statistics → merge into the moments of the batches before.
    pub(crate) fn accumulate_moments(&self) -> Result<Vec<Dispatch>, Error> {
        let Some(geometries) = &self.geometries else { return Ok(Vec::new()) };
        let geometry = &geometries.reduction;
        let kernel = Kernel::Reduce(Reduction::Statistics, geometry.family, self.access(geometry.family));
        Ok(vec![
            self.over_tensor(kernel, CompanionUse::None, geometry, self.params())?,
            self.finalize(Kernel::AccumulateMoments, geometry.slots, self.params())?,
        ])
    }

    /// Moments to running statistics; the plan's shape does not matter.
    pub(crate) fn population(&self) -> Result<Vec<Dispatch>, Error> {
        let unbiased = self.descriptor.convention.running_variance == RunningVariance::Unbiased;
        let params = Params { flags: flag(unbiased, Params::UNBIASED), ..self.params() };
        Ok(vec![self.finalize(Kernel::Population, 1, params)?])
    }

    /// Weights are scaled like a gradient through frozen statistics, and the bias is normalised.
    pub(crate) fn fold(&self, options: FoldOptions) -> Result<Vec<Dispatch>, Error> {
        let flags = flag(options.gamma, Params::HAS_GAMMA)
            | flag(options.beta, Params::HAS_BETA)
            | flag(options.bias, Params::HAS_LAYER_BIAS);
        let params = Params { flags, ..self.params() };
        let mut dispatches = vec![self.finalize(Kernel::FoldBias, 1, params)?];
        if let Some(geometries) = &self.geometries {
            let scale = Elementwise::FrozenInputGradient(Fusion::None);
            dispatches.push(self.apply(scale, CompanionUse::None, geometries, params)?);
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

    fn check_mask(&self, mask: bool) -> Result<(), Error> {
        let activation = self.descriptor.activation;
        if mask && !activation.is_piecewise_linear() {
            Err(Error::UselessActivationMask { activation })
        } else {
            Ok(())
        }
    }

    fn check_backward(&self, options: &BackwardOptions) -> Result<(), Error> {
        if !options.wants_sums() && !options.wants_map() {
            return Err(Error::NoGradientRequested);
        }
        let activation = self.descriptor.activation;
        if options.derivative == Derivative::Inverted {
            activation.check_invertible()?;
        }
        activation.check_source(options.derivative.source())?;
        let returns_residual = options.residual_gradient != GradientMode::Omit;
        if returns_residual && activation != Activation::Identity && options.derivative == Derivative::Recompute {
            return Err(Error::MissingResidual);
        }
        Ok(())
    }

    fn gradients(
        &self,
        operation: Operation,
        geometries: &Geometries,
        options: &BackwardOptions,
    ) -> Result<Vec<Dispatch>, Error> {
        let fused = Fused::backward(self.descriptor.activation, options);
        if !options.wants_map() {
            let geometry = &geometries.reduction;
            let access = self.access(geometry.family);
            let reduce = Kernel::Reduce(operation.reduction(fused.fusion), geometry.family, access);
            let params = Params { flags: parameter_flags(options), ..self.params() };
            return Ok(vec![
                self.over_tensor(reduce, fused.companion, geometry, params)?,
                self.finalize_gradients(geometries.reduction.slots, options)?,
            ]);
        }
        let choice = self.choice(operation, fused, geometries)?;
        let flags = map_flags(options) | sum_flags(options);
        self.reduce_and_map(operation, fused, choice, Params { flags, ..self.params() }, 0)
    }

    /// The strategy for an operation, which has to have bindings for what is fused into it.
    fn choice<'a>(&self, operation: Operation, fused: Fused, geometries: &'a Geometries) -> Result<&'a Choice, Error> {
        let choice = geometries.choice(operation);
        let bindings = match choice {
            Choice::Split { .. } => return Ok(choice),
            _ if fused.fusion.binds_more() => return geometries.split_choice(operation),
            Choice::ChannelLoop(geometry) => {
                Kernel::ChannelLoop(operation, fused.fusion, geometry.family, self.access(geometry.family)).bindings()
            }
            Choice::Resident(geometry, trips) => {
                let access = self.access(geometry.family);
                Kernel::Resident(operation, fused.fusion, geometry.family, access, *trips).bindings()
            }
        };
        if bindings.len() <= self.profile.max_storage_buffers_per_shader_stage as usize {
            Ok(choice)
        } else {
            geometries.split_choice(operation)
        }
    }

    /// An operation by the strategy that was chosen for it; `counts` is the flag of the dispatch that counts the batch.
    fn reduce_and_map(
        &self,
        operation: Operation,
        Fused { fusion, companion }: Fused,
        choice: &Choice,
        params: Params,
        counts: u32,
    ) -> Result<Vec<Dispatch>, Error> {
        let access = |family| self.access(family);
        match choice {
            Choice::Split { reduction, elementwise, merges_apart } => {
                let channels = u64::from(self.problem.channels);
                let partials = reduction.slots * channels + 1;
                let records_base = narrow(if *merges_apart { partials + channels + 1 } else { partials });
                let reduce = Kernel::Reduce(operation.reduction(fusion), reduction.family, access(reduction.family));
                let apply = Kernel::MergeAndApply(operation, fusion, elementwise.family, access(elementwise.family));
                let first = Params {
                    flags: params.flags & (Params::HAS_GAMMA | Params::HAS_BETA) | Params::RECORDS_PARAMETERS | counts,
                    records_base,
                    ..self.params()
                };
                let mut dispatches = vec![self.over_tensor(reduce, companion, reduction, first)?];
                let params = Params { records_base, ..params };
                let mut second = self.over_tensor(apply, companion, elementwise, params)?;
                if *merges_apart {
                    let merge = match operation.reduction(fusion) {
                        Reduction::Statistics => Reduction::Statistics,
                        // Sums are sums, whatever was added up.
                        Reduction::GradientSums(..) => Reduction::GradientSums(Normalizer::Saved, Fusion::None),
                    };
                    dispatches.push(self.finalize(Kernel::MergePartials(merge), reduction.slots, self.params())?);
                    elementwise.describe_merge(1, &self.profile, &mut second.params);
                    second.params.partials_base = narrow(partials);
                } else {
                    elementwise.describe_merge(reduction.slots, &self.profile, &mut second.params);
                }
                dispatches.push(second);
                Ok(dispatches)
            }
            Choice::ChannelLoop(geometry) => {
                let kernel = Kernel::ChannelLoop(operation, fusion, geometry.family, access(geometry.family));
                let params = Params { flags: params.flags | counts, ..params };
                Ok(vec![self.over_tensor(kernel, companion, geometry, params)?])
            }
            Choice::Resident(geometry, trips) => {
                let kernel = Kernel::Resident(operation, fusion, geometry.family, access(geometry.family), *trips);
                let params = Params { flags: params.flags | counts, ..params };
                Ok(vec![self.over_tensor(kernel, companion, geometry, params)?])
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

    fn apply(
        &self,
        map: Elementwise,
        companion: CompanionUse,
        geometries: &Geometries,
        params: Params,
    ) -> Result<Dispatch, Error> {
        let geometry = &geometries.inference;
        let kernel = Kernel::Apply(map, geometry.family, self.access(geometry.family));
        self.over_tensor(kernel, companion, geometry, params)
    }

    fn over_tensor(
        &self,
        kernel: Kernel,
        companion: CompanionUse,
        geometry: &Geometry,
        mut params: Params,
    ) -> Result<Dispatch, Error> {
        geometry.describe(self.problem, &self.profile, &mut params);
        let workgroups = geometry.workgroups(&self.profile)?;
        Ok(Dispatch { kernel, companion, workgroup_size: geometry.workgroup_size, workgroups, params })
    }

    fn finalize(&self, kernel: Kernel, slots: u64, mut params: Params) -> Result<Dispatch, Error> {
        let geometry = FinalizeGeometry::new(self.problem.channels, slots, &self.profile);
        geometry.describe(&mut params, slots);
        let workgroups = geometry.workgroups(&self.profile)?;
        Ok(Dispatch {
            kernel,
            companion: CompanionUse::None,
            workgroup_size: geometry.workgroup_size,
            workgroups,
            params,
        })
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
            slope: match self.descriptor.activation {
                Activation::LeakyRelu { slope } => slope as f32,
                _ => 0.0,
            },
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

fn parameter_flags(options: &BackwardOptions) -> u32 {
    flag(options.gamma, Params::HAS_GAMMA) | flag(options.beta, Params::HAS_BETA)
}

/// What becomes of dx and dz, and what they depend on.
fn map_flags(options: &BackwardOptions) -> u32 {
    let of = |mode, wanted: u32, accumulates: u32| match mode {
        GradientMode::Omit => 0,
        GradientMode::Overwrite => wanted,
        GradientMode::Accumulate => wanted | accumulates,
    };
    parameter_flags(options)
        | of(options.input_gradient, Params::WANTS_INPUT_GRADIENT, Params::ACCUMULATES_INPUT_GRADIENT)
        | of(options.residual_gradient, Params::WANTS_RESIDUAL_GRADIENT, Params::ACCUMULATES_RESIDUAL_GRADIENT)
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
