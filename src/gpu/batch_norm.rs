//! The batch norm of a device: plan and bind.

use super::binding::{Bindings, Usage};
use super::buffers::{
    AccumulateBuffers, ActivationState, BackwardBuffers, FoldBuffers, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, OutputBackwardBuffers, PopulationBuffers, Renormalization, RunningStatistics, TrainingBuffers,
    ValidBuffers, ValidSource,
};
use super::kernels::Kernels;
use super::step::{Step, TrainingStep};
use crate::plan::{
    BackwardOptions, Derivative, FoldOptions, GradientMode, InferenceOptions, Plan, Role, Sequences, TrainingOptions,
};
use crate::{BatchNormDescriptor, Error, Shape, Strategies};

/// Batch normalization on one wgpu device.
///
/// Plan a shape, bind the plan to buffers, record the step: planning and binding happen once per shape and set of
/// buffers, recording every training step. Nothing here submits, polls, waits or keeps the caller's buffers busy.
///
/// All methods take `&self`; clones share pipelines, and a batch norm may be used from several threads at once.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    descriptor: BatchNormDescriptor,
    pub(super) kernels: Kernels,
}

impl BatchNorm {
    /// A batch norm with kernels of its own. Programs with several share them: [`BatchNorm::with_kernels`].
    ///
    /// # Errors
    /// As [`BatchNormDescriptor::validate`].
    pub fn new(device: &wgpu::Device, descriptor: &BatchNormDescriptor) -> Result<Self, Error> {
        Self::with_kernels(&Kernels::new(device), descriptor)
    }

    /// A batch norm on the device of `kernels`.
    ///
    /// # Errors
    /// As [`BatchNormDescriptor::validate`].
    pub fn with_kernels(kernels: &Kernels, descriptor: &BatchNormDescriptor) -> Result<Self, Error> {
        descriptor.validate()?;
        Ok(Self { descriptor: descriptor.clone(), kernels: kernels.clone() })
    }

    /// The descriptor.
    #[must_use]
    pub const fn descriptor(&self) -> &BatchNormDescriptor {
        &self.descriptor
    }

    /// The kernels, to share with another batch norm of the device.
    #[must_use]
    pub const fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Plans a shape. Host only and cheap: no device call, no allocation on the device.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, shape: &Shape) -> Result<Plan, Error> {
        Plan::new(&self.descriptor, shape, self.kernels.profile())
    }

    /// As [`BatchNorm::plan`], with strategies of the caller's choice.
    ///
    /// # Errors
    /// As [`Plan::with_strategies`].
    pub fn plan_with(&self, shape: &Shape, strategies: Strategies) -> Result<Plan, Error> {
        Plan::with_strategies(&self.descriptor, shape, self.kernels.profile(), strategies)
    }

    /// Binds training forward.
    ///
    /// ```text
    /// μ = (1/M)·Σx      v = (1/M)·Σ(x − μ)²      y = f(γ·(x − μ)/√(v + ε) + β + z)
    /// running_mean     ← (1 − a)·running_mean     + a·μ
    /// running_variance ← (1 − a)·running_variance + a·v·k
    /// ```
    ///
    /// with the descriptor's activation `f`, the residual `z`, and the convention's momentum `a` and correction `k`. With
    /// `valid`, sums run over valid elements and M counts them; with segments, they run over the elements of an instance; with
    /// `renormalization`, x̂·R + D takes the place of x̂ ([`Renormalization`](crate::Renormalization)).
    /// [`crate::reference::BatchNorm::training`] is the specification. An empty batch records nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`]; [`Error::WrongSize`], [`Error::TooSmall`], [`Error::MissingStorageUsage`],
    /// [`Error::MisalignedOffset`] and [`Error::OverlappingBuffers`] for slices; [`Error::OneSample`] and
    /// [`Error::EmptyBatch`] by policy; [`Error::MissingBatchesTracked`]; [`Error::MissingRunningStatistics`];
    /// [`Error::UselessActivationMask`];
    /// [`Error::StrategyNotServed`] where a pinned strategy does not serve what is fused; [`Error::LimitExceeded`];
    /// [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_training(&self, plan: &Plan, buffers: &TrainingBuffers<'_>) -> Result<TrainingStep, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let options = bind_forward(&mut bindings, plan, buffers)?;
        bindings.workspace(buffers.workspace)?;
        let updating = plan.training(options)?;
        let without_update = plan.training(TrainingOptions { running: false, ..options })?;
        let label = self.label("training");
        let [updating, without_update] = bindings.bind(&self.kernels, &label, [&updating, &without_update])?;
        Ok(TrainingStep { label, updating, without_update })
    }

    /// Binds inference: `y = f(γ·(x − running_mean)/√(running_variance + ε) + β + z)`.
    ///
    /// [`crate::reference::BatchNorm::inference`] is the specification. An empty batch records nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::UselessActivationMask`],
    /// [`Error::PaddedActivationMask`], [`Error::LimitExceeded`], [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_inference(&self, plan: &Plan, buffers: &InferenceBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
        bindings.tensor_maybe_over(Role::Output, "output", buffers.output, Role::Input)?;
        bind_fused(&mut bindings, plan, buffers.residual, buffers.activation_mask)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
        bindings.running(Role::RunningMean, "running_mean", Usage::Read, buffers.running_mean)?;
        bindings.running(Role::RunningVariance, "running_variance", Usage::Read, buffers.running_variance)?;
        bindings.valid(buffers.valid)?;
        let dispatches = plan.inference(InferenceOptions {
            gamma: buffers.gamma.is_some(),
            beta: buffers.beta.is_some(),
            residual: buffers.residual.is_some(),
            mask: buffers.activation_mask.is_some(),
            valid: buffers.valid.is_some(),
        })?;
        let label = self.label("inference");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds backward through training statistics, where mean and variance depend on x.
    ///
    /// ```text
    /// h = g·f'(t)      dz = h      dβ = Σ h      dγ = Σ h·x̂      dx = γ·r·( h − dβ/M − x̂·dγ/M )
    /// ```
    ///
    /// with the pre-activation `t = γ·x̂ + β + z`; without an activation h = g. Sums and M are of what forward had: valid
    /// elements, and instances of which those of one channel are added up for dγ and dβ. Where forward renormalised, γ·R stands
    /// for γ, γ·D + β for β, and dγ = R·Σ h·x̂ + D·Σ h.
    ///
    /// [`crate::reference::BatchNorm::backward`] is the specification. An empty batch gives dγ = dβ = 0.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_training`], and [`Error::NoGradientRequested`], [`Error::ActivationSourceNotServed`],
    /// [`Error::MissingResidual`], [`Error::InPlaceAccumulation`].
    pub fn bind_backward(&self, plan: &Plan, buffers: &BackwardBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let options = bind_gradients(&mut bindings, plan, buffers)?;
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.backward(options)?;
        let label = self.label("backward");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds backward through training statistics from the output, so that x need not be kept: In-Place Activated BatchNorm
    /// (Rota Bulò, Porzi and Kontschieder, arXiv 1712.02616), with gamma as it is, of either sign.
    ///
    /// ```text
    /// x̂ = (f⁻¹(y) − β)/γ      h = g·f'(t)      dβ = Σ h      dγ = Σ h·x̂      dx = γ·r·( h − dβ/M − x̂·dγ/M )
    /// ```
    ///
    /// With an in-place forward this saves [`Plan::in_place_saving`] bytes a layer. It serves the identity and leaky ReLU with a
    /// slope, without a residual and without batch renormalization, whose x̂·R + D it would take for x̂.
    ///
    /// x̂ carries the rounding of y over γ, so a γ that is small against β costs digits: with a unit roundoff u of the element
    /// type (2⁻²⁴, 2⁻¹¹ in f16, 2⁻⁸ in bf16) x̂ is off by about u·|β/γ|, and is limited to √M, which no x̂ exceeds, where
    /// that leaves nothing of it. Where γ is 0 (or subnormal, on devices that take such numbers for 0), dx is 0, as it should
    /// be, but dγ is unknown and given as 0: such a channel cannot leave 0 by itself.
    ///
    /// The sign of t is that of y. A t within rounding of 0 has the sign that forward's rounding gave it, and one that rounds to
    /// 0 in the element type counts as 0.
    ///
    /// [`crate::reference::BatchNorm::backward_from_output`] is the specification.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_backward`], and [`Error::NotInvertible`].
    pub fn bind_backward_from_output(&self, plan: &Plan, buffers: &OutputBackwardBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        // The kernels read y where they otherwise read x.
        bindings.tensor(Role::Input, "output", Usage::Read, buffers.output)?;
        bindings.tensor(Role::OutputGradient, "output_gradient", Usage::Read, buffers.output_gradient)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
        bindings.optional(Role::Statistics, "saved", Usage::Read, Some(buffers.saved), plan.saved_size())?;
        bindings.valid(buffers.valid)?;
        let gradients = Gradients {
            input: buffers.input_gradient,
            residual: None,
            gamma: buffers.gamma_gradient,
            beta: buffers.beta_gradient,
        };
        let options = BackwardOptions {
            gamma: buffers.gamma.is_some(),
            beta: buffers.beta.is_some(),
            saved: true,
            input: true,
            valid: buffers.valid.is_some(),
            derivative: Derivative::Inverted,
            ..gradients.bind(&mut bindings)?
        };
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.backward(options)?;
        let label = self.label("backward_from_output");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds backward through frozen statistics, where mean and variance are constants (fine-tuning, evaluation mode).
    ///
    /// ```text
    /// h = g·f'(t)      dz = h      dβ = Σ h      dγ = Σ h·x̂      dx = h·γ·r      with r = 1/√(running_variance + ε)
    /// ```
    ///
    /// [`crate::reference::BatchNorm::backward_frozen`] is the specification. The gradients of input and residual alone need no
    /// reduction. An empty batch gives dγ = dβ = 0.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_backward`], except that one sample is fine; and [`Error::MissingInput`].
    pub fn bind_backward_frozen(&self, plan: &Plan, buffers: &FrozenBackwardBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.optional(Role::Input, "input", Usage::Read, buffers.input, plan.tensor_size())?;
        bindings.tensor(Role::OutputGradient, "output_gradient", Usage::Read, buffers.output_gradient)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
        bindings.running(Role::RunningMean, "running_mean", Usage::Read, buffers.running_mean)?;
        bindings.running(Role::RunningVariance, "running_variance", Usage::Read, buffers.running_variance)?;
        bindings.valid(buffers.valid)?;
        let gradients = Gradients {
            input: buffers.input_gradient,
            residual: buffers.residual_gradient,
            gamma: buffers.gamma_gradient,
            beta: buffers.beta_gradient,
        };
        let options = BackwardOptions {
            gamma: buffers.gamma.is_some(),
            beta: buffers.beta.is_some(),
            input: buffers.input.is_some(),
            valid: buffers.valid.is_some(),
            derivative: bind_activation(&mut bindings, plan, buffers.activation)?,
            ..gradients.bind(&mut bindings)?
        };
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.backward_frozen(options)?;
        let label = self.label("backward_frozen");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds folding inference into the convolution or linear layer before it, which then needs no batch norm:
    ///
    /// ```text
    /// W' = W·γ·r      b' = (b − running_mean)·γ·r + β      with r = 1/√(running_variance + ε)
    /// ```
    ///
    /// The plan is one for the weights, see [`FoldBuffers`]. The descriptor's activation stays outside.
    /// [`crate::reference::BatchNorm::fold`] is the specification.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], [`Error::SegmentedFold`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::LimitExceeded`],
    /// [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_fold(&self, plan: &Plan, buffers: &FoldBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::OutputGradient, "weight", Usage::Read, buffers.weight)?;
        bindings.tensor_maybe_over(
            Role::InputGradient,
            "folded_weight",
            buffers.folded_weight,
            Role::OutputGradient,
        )?;
        bindings.vector(Role::LayerBias, "bias", Usage::Read, buffers.bias)?;
        bindings.vector(Role::FoldedBias, "folded_bias", Usage::Write, Some(buffers.folded_bias))?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
        bindings.running(Role::RunningMean, "running_mean", Usage::Read, buffers.running_mean)?;
        bindings.running(Role::RunningVariance, "running_variance", Usage::Read, buffers.running_variance)?;
        let dispatches = plan.fold(FoldOptions {
            gamma: buffers.gamma.is_some(),
            beta: buffers.beta.is_some(),
            bias: buffers.bias.is_some(),
        })?;
        let label = self.label("fold");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds finding out which elements of a padded batch are data, for the `valid` of every other step on the same shape:
    /// forward and backward, and all layers with as many channels and the same segments. Needed once per batch, since only
    /// the device knows the lengths.
    ///
    /// Padding counts for nothing: mean, variance and gradients are those of a batch without it, W elements a channel instead
    /// of M, whatever x and g hold there (NaN too); y, dx and dz are 0 there. An instance without a valid element leaves
    /// running statistics as they are; one with a single valid element too, unless the convention's `one_sample` is
    /// [`PopulationVariance`](crate::OneSamplePolicy::PopulationVariance), since only the device knows how many there are.
    ///
    /// ```no_run
    /// # use wgpu_batch_norm::{BatchNorm, Error, SequenceAxes, Shape, TrainingBuffers, ValidBuffers, ValidSource, wgpu};
    /// # fn demo(bn: &BatchNorm, pass: &mut wgpu::ComputePass<'_>, [x, y, lengths, valid, workspace]: [&wgpu::Buffer; 5])
    /// # -> Result<(), Error> {
    /// let plan = bn.plan(&Shape::new(&[32, 50, 64])?)?; // 32 sequences of at most 50 steps, channels last
    /// let axes = SequenceAxes { sequence: 0, step: 1 };
    /// let source = ValidSource::Lengths { lengths: lengths.slice(..), axes }; // 32 lengths
    /// let valid = valid.slice(..plan.valid_size());
    /// let mark = bn.bind_valid(&plan, &ValidBuffers { source, valid })?;
    /// let train = bn.bind_training(&plan, &TrainingBuffers {
    ///     valid: Some(valid),
    ///     ..TrainingBuffers::new(x.slice(..), y.slice(..), workspace.slice(..))
    /// })?;
    /// mark.record(pass); // once a batch
    /// train.record(pass); // and every other step of any layer on this shape
    /// # Ok(()) }
    /// ```
    ///
    /// [`crate::reference::BatchNorm::valid_positions_from`] is the specification. An empty batch records nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::InvalidAxis`],
    /// [`Error::LimitExceeded`], [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_valid(&self, plan: &Plan, buffers: &ValidBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let mut sequences = |lengths, axes, first_step| {
            let axes = plan.sequence_axes(axes)?;
            // Of an empty batch there may be more sequences than bytes.
            let size = axes[0].length.saturating_mul(4);
            bindings.optional(Role::ValidSource, "source.lengths", Usage::Read, Some(lengths), size)?;
            Ok::<_, Error>(Some(Sequences { axes, first_step }))
        };
        let sequences = match buffers.source {
            ValidSource::Lengths { lengths, axes } => sequences(lengths, axes, 0)?,
            ValidSource::LengthsFrom { lengths, axes, first_step } => sequences(lengths, axes, first_step)?,
            ValidSource::Flags(flags) => {
                let size = plan.positions_size();
                bindings.optional(Role::ValidSource, "source.flags", Usage::Read, Some(flags), size)?;
                None
            }
        };
        bindings.optional(Role::Valid, "valid", Usage::Write, Some(buffers.valid), plan.valid_size())?;
        let dispatches = plan.valid(sequences)?;
        let label = self.label("valid");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds adding a batch to the moments of the batches before it: count, mean and M2 of each channel, merged exactly
    /// whatever the batches' sizes. Reads the batch and nothing else of the layer; an empty batch adds nothing.
    ///
    /// With [`BatchNorm::bind_population`] this gives the statistics of a whole data set, where running statistics are an
    /// average that forgets ("precise BN": Wu and Johnson, arXiv 2105.07576, section 3).
    /// [`crate::reference::BatchNorm::accumulate`] is the specification.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::LimitExceeded`],
    /// [`Error::TooManyForMoments`], [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_accumulate(&self, plan: &Plan, buffers: &AccumulateBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
        bindings.optional(Role::Moments, "moments", Usage::Write, Some(buffers.moments), plan.moments_size())?;
        bindings.valid(buffers.valid)?;
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.accumulate_moments(buffers.valid.is_some())?;
        let label = self.label("accumulate");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds writing accumulated moments to the running statistics: the mean, and the variance `M2/n`, or `M2/(n − 1)`
    /// where the convention's running variance is unbiased and n > 1. Any plan of the batch norm with as many running statistics
    /// will do.
    ///
    /// [`crate::reference::BatchNorm::population`] is the specification.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::LimitExceeded`],
    /// [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_population(&self, plan: &Plan, buffers: &PopulationBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.optional(Role::Moments, "moments", Usage::Read, Some(buffers.moments), plan.moments_size())?;
        bindings.running(Role::RunningMean, "running_mean", Usage::Write, buffers.running_mean)?;
        bindings.running(Role::RunningVariance, "running_variance", Usage::Write, buffers.running_variance)?;
        let dispatches = plan.population()?;
        let label = self.label("population");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    pub(super) fn check(&self, plan: &Plan) -> Result<(), Error> {
        let same = plan.descriptor().plans_like(&self.descriptor) && plan.profile() == self.kernels.profile();
        if same { Ok(()) } else { Err(Error::PlanMismatch) }
    }

    pub(super) fn label(&self, operation: &str) -> String {
        match &self.descriptor.label {
            Some(label) => format!("{label}: wgpu_batch_norm::{operation}"),
            None => format!("wgpu_batch_norm::{operation}"),
        }
    }
}

/// What training forward is given, but for the workspace.
pub(super) fn bind_forward<'a>(
    bindings: &mut Bindings<'a>,
    plan: &Plan,
    buffers: &TrainingBuffers<'a>,
) -> Result<TrainingOptions, Error> {
    bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
    bindings.tensor_maybe_over(Role::Output, "output", buffers.output, Role::Input)?;
    bind_fused(bindings, plan, buffers.residual, buffers.activation_mask)?;
    bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
    bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
    let mut options = TrainingOptions {
        gamma: buffers.gamma.is_some(),
        beta: buffers.beta.is_some(),
        residual: buffers.residual.is_some(),
        mask: buffers.activation_mask.is_some(),
        health: buffers.health.is_some(),
        ..TrainingOptions::default()
    };
    bind_running(bindings, &mut options, buffers.running)?;
    bindings.optional(Role::Statistics, "saved", Usage::Write, buffers.saved, plan.saved_size())?;
    options.saved = buffers.saved.is_some();
    bindings.optional(Role::Health, "health", Usage::Write, buffers.health, plan.health_size())?;
    bindings.valid(buffers.valid)?;
    options.valid = buffers.valid.is_some();
    bind_renormalization(bindings, plan, &mut options, buffers.renormalization)?;
    Ok(options)
}

/// The running statistics that training updates.
pub(super) fn bind_running<'a>(
    bindings: &mut Bindings<'a>,
    options: &mut TrainingOptions,
    running: Option<RunningStatistics<'a>>,
) -> Result<(), Error> {
    if let Some(running) = running {
        bindings.running(Role::RunningMean, "running.mean", Usage::Write, running.mean)?;
        bindings.running(Role::RunningVariance, "running.variance", Usage::Write, running.variance)?;
        let (name, counter) = ("running.batches_tracked", running.batches_tracked);
        bindings.optional(Role::BatchesTracked, name, Usage::Write, counter, 4)?;
        options.running = true;
        options.batches_tracked = counter.is_some();
    }
    Ok(())
}

/// What batch renormalization reads and writes.
pub(super) fn bind_renormalization<'a>(
    bindings: &mut Bindings<'a>,
    plan: &Plan,
    options: &mut TrainingOptions,
    renormalization: Option<Renormalization<'a>>,
) -> Result<(), Error> {
    if let Some(renormalization) = renormalization {
        let (role, size) = (Role::Renormalization, plan.renormalization_size());
        let saved = Some(renormalization.saved);
        bindings.optional(role, "renormalization.saved", Usage::Write, saved, size)?;
        let (role, limits) = (Role::RenormalizationLimits, Some(renormalization.limits));
        bindings.optional(role, "renormalization.limits", Usage::Read, limits, 8)?;
        options.renormalization = true;
        options.renormalizes_to_running = options.running;
    }
    Ok(())
}

/// What backward through training statistics is given, but for the workspace.
pub(super) fn bind_gradients<'a>(
    bindings: &mut Bindings<'a>,
    plan: &Plan,
    buffers: &BackwardBuffers<'a>,
) -> Result<BackwardOptions, Error> {
    bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
    bindings.tensor(Role::OutputGradient, "output_gradient", Usage::Read, buffers.output_gradient)?;
    bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
    bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
    bindings.optional(Role::Statistics, "saved", Usage::Read, buffers.saved, plan.saved_size())?;
    bindings.valid(buffers.valid)?;
    let (role, size) = (Role::Renormalization, plan.renormalization_size());
    bindings.optional(role, "renormalization", Usage::Read, buffers.renormalization, size)?;
    let gradients = Gradients {
        input: buffers.input_gradient,
        residual: buffers.residual_gradient,
        gamma: buffers.gamma_gradient,
        beta: buffers.beta_gradient,
    };
    Ok(BackwardOptions {
        gamma: buffers.gamma.is_some(),
        beta: buffers.beta.is_some(),
        saved: buffers.saved.is_some(),
        input: true,
        valid: buffers.valid.is_some(),
        renormalization: buffers.renormalization.is_some(),
        derivative: bind_activation(bindings, plan, buffers.activation)?,
        ..gradients.bind(bindings)?
    })
}

/// What forward fuses beside the activation.
fn bind_fused<'a>(
    bindings: &mut Bindings<'a>,
    plan: &Plan,
    residual: Option<wgpu::BufferSlice<'a>>,
    mask: Option<wgpu::BufferSlice<'a>>,
) -> Result<(), Error> {
    bindings.optional(Role::Companion, "residual", Usage::Read, residual, plan.tensor_size())?;
    bindings.optional(Role::ActivationMask, "activation_mask", Usage::Write, mask, plan.mask_size())
}

/// What backward is given of forward's activation.
fn bind_activation<'a>(
    bindings: &mut Bindings<'a>,
    plan: &Plan,
    state: ActivationState<'a>,
) -> Result<Derivative, Error> {
    match state {
        ActivationState::Recompute { residual: None } => Ok(Derivative::Recompute),
        ActivationState::Recompute { residual: Some(residual) } => {
            bindings.tensor(Role::Companion, "activation.residual", Usage::Read, residual)?;
            Ok(Derivative::RecomputeWithResidual)
        }
        ActivationState::Output(output) => {
            bindings.tensor(Role::Companion, "activation.output", Usage::Read, output)?;
            Ok(Derivative::Output)
        }
        ActivationState::Mask(mask) => {
            let size = plan.mask_size();
            bindings.optional(Role::ActivationMask, "activation.mask", Usage::Read, Some(mask), size)?;
            Ok(Derivative::Mask)
        }
    }
}

/// The gradients that are asked for.
struct Gradients<'a> {
    input: Option<Gradient<'a>>,
    residual: Option<Gradient<'a>>,
    gamma: Option<Gradient<'a>>,
    beta: Option<Gradient<'a>>,
}

impl<'a> Gradients<'a> {
    fn bind(self, bindings: &mut Bindings<'a>) -> Result<BackwardOptions, Error> {
        let Self { input, residual, gamma, beta } = self;
        let mode = |gradient: Option<Gradient<'_>>| match gradient {
            None => GradientMode::Omit,
            Some(gradient) if gradient.accumulates() => GradientMode::Accumulate,
            Some(_) => GradientMode::Overwrite,
        };
        if let Some(gradient) = input {
            let over = Role::OutputGradient;
            bindings.tensor_maybe_over(Role::InputGradient, "input_gradient", gradient.slice(), over)?;
            if gradient.accumulates() && bindings.coincide(Role::InputGradient, over) {
                return Err(Error::InPlaceAccumulation);
            }
        }
        if let Some(gradient) = residual {
            bindings.tensor(Role::ResidualGradient, "residual_gradient", Usage::Write, gradient.slice())?;
        }
        bindings.vector(Role::GammaGradient, "gamma_gradient", Usage::Write, gamma.map(Gradient::slice))?;
        bindings.vector(Role::BetaGradient, "beta_gradient", Usage::Write, beta.map(Gradient::slice))?;
        Ok(BackwardOptions {
            input_gradient: mode(input),
            residual_gradient: mode(residual),
            gamma_gradient: mode(gamma),
            beta_gradient: mode(beta),
            ..BackwardOptions::default()
        })
    }
}
