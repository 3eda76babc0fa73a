//! The batch norm of a device: plan and bind.

use super::binding::{Bindings, Usage};
use super::buffers::{BackwardBuffers, FrozenBackwardBuffers, Gradient, InferenceBuffers, TrainingBuffers};
use super::kernels::Kernels;
use super::step::{Step, TrainingStep};
use crate::plan::{BackwardOptions, GradientMode, Plan, Role, TrainingOptions};
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
    kernels: Kernels,
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
    /// μ = (1/M)·Σx      v = (1/M)·Σ(x − μ)²      y = γ·(x − μ)/√(v + ε) + β
    /// running_mean     ← (1 − a)·running_mean     + a·μ
    /// running_variance ← (1 − a)·running_variance + a·v·k
    /// ```
    ///
    /// with the convention's momentum `a` and correction `k`; the reference, [`crate::reference::BatchNorm::training`],
    /// is the specification. An empty batch records nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`]; [`Error::WrongSize`], [`Error::TooSmall`], [`Error::MissingStorageUsage`],
    /// [`Error::MisalignedOffset`] and [`Error::OverlappingBuffers`] for slices; [`Error::OneSample`] and
    /// [`Error::EmptyBatch`] by policy; [`Error::MissingBatchesTracked`]; [`Error::LimitExceeded`]; [`Error::Device`].
    pub fn bind_training(&self, plan: &Plan, buffers: &TrainingBuffers<'_>) -> Result<TrainingStep, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
        bindings.tensor(Role::Output, "output", Usage::Write, buffers.output)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
        let mut options = TrainingOptions {
            gamma: buffers.gamma.is_some(),
            beta: buffers.beta.is_some(),
            ..TrainingOptions::default()
        };
        if let Some(running) = &buffers.running {
            bindings.vector(Role::RunningMean, "running.mean", Usage::Write, Some(running.mean))?;
            bindings.vector(Role::RunningVariance, "running.variance", Usage::Write, Some(running.variance))?;
            let (name, counter) = ("running.batches_tracked", running.batches_tracked);
            bindings.optional(Role::BatchesTracked, name, Usage::Write, counter, 4)?;
            options.running = true;
            options.batches_tracked = counter.is_some();
        }
        bindings.optional(Role::Statistics, "saved", Usage::Write, buffers.saved, plan.saved_size())?;
        options.saved = buffers.saved.is_some();
        bindings.workspace(buffers.workspace)?;
        let updating = plan.training(options)?;
        let without_update = plan.training(TrainingOptions { running: false, ..options })?;
        let label = self.label("training");
        let [updating, without_update] = bindings.bind(&self.kernels, &label, [&updating, &without_update])?;
        Ok(TrainingStep { label, updating, without_update })
    }

    /// Binds inference: `y = γ·(x − running_mean)/√(running_variance + ε) + β`.
    ///
    /// [`crate::reference::BatchNorm::inference`] is the specification. An empty batch records nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::LimitExceeded`],
    /// [`Error::Device`].
    pub fn bind_inference(&self, plan: &Plan, buffers: &InferenceBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
        bindings.tensor(Role::Output, "output", Usage::Write, buffers.output)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::Beta, "beta", Usage::Read, buffers.beta)?;
        bindings.vector(Role::RunningMean, "running_mean", Usage::Read, Some(buffers.running_mean))?;
        bindings.vector(Role::RunningVariance, "running_variance", Usage::Read, Some(buffers.running_variance))?;
        let dispatches = plan.inference(buffers.gamma.is_some(), buffers.beta.is_some())?;
        let label = self.label("inference");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds backward through training statistics, where mean and variance depend on x.
    ///
    /// ```text
    /// dβ = Σ g      dγ = Σ g·x̂      dx = γ·r·( g − dβ/M − x̂·dγ/M )
    /// ```
    ///
    /// [`crate::reference::BatchNorm::backward`] is the specification. An empty batch gives dγ = dβ = 0.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_training`], and [`Error::NoGradientRequested`].
    pub fn bind_backward(&self, plan: &Plan, buffers: &BackwardBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
        bindings.tensor(Role::OutputGradient, "output_gradient", Usage::Read, buffers.output_gradient)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.optional(Role::Statistics, "saved", Usage::Read, buffers.saved, plan.saved_size())?;
        let options = BackwardOptions {
            gamma: buffers.gamma.is_some(),
            saved: buffers.saved.is_some(),
            ..bind_gradients(&mut bindings, buffers.input_gradient, buffers.gamma_gradient, buffers.beta_gradient)?
        };
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.backward(options)?;
        let label = self.label("backward");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds backward through frozen statistics, where mean and variance are constants (fine-tuning, evaluation mode).
    ///
    /// ```text
    /// dβ = Σ g      dγ = Σ g·x̂      dx = g·γ·r      with r = 1/√(running_variance + ε)
    /// ```
    ///
    /// [`crate::reference::BatchNorm::backward_frozen`] is the specification. The input gradient alone needs no
    /// reduction and no second read of x. An empty batch gives dγ = dβ = 0.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_backward`], except that one sample is fine; and [`Error::MissingInput`].
    pub fn bind_backward_frozen(&self, plan: &Plan, buffers: &FrozenBackwardBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.optional(Role::Input, "input", Usage::Read, buffers.input, plan.tensor_size())?;
        bindings.tensor(Role::OutputGradient, "output_gradient", Usage::Read, buffers.output_gradient)?;
        bindings.vector(Role::Gamma, "gamma", Usage::Read, buffers.gamma)?;
        bindings.vector(Role::RunningMean, "running_mean", Usage::Read, Some(buffers.running_mean))?;
        bindings.vector(Role::RunningVariance, "running_variance", Usage::Read, Some(buffers.running_variance))?;
        let options = BackwardOptions {
            gamma: buffers.gamma.is_some(),
            ..bind_gradients(&mut bindings, buffers.input_gradient, buffers.gamma_gradient, buffers.beta_gradient)?
        };
        bindings.workspace(buffers.workspace)?;
        if buffers.input.is_none() && buffers.gamma_gradient.is_some() {
            return Err(Error::MissingInput);
        }
        let dispatches = plan.backward_frozen(options)?;
        let label = self.label("backward_frozen");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    fn check(&self, plan: &Plan) -> Result<(), Error> {
        let same = plan.descriptor().plans_like(&self.descriptor) && plan.profile() == self.kernels.profile();
        if same { Ok(()) } else { Err(Error::PlanMismatch) }
    }

    fn label(&self, operation: &str) -> String {
        match &self.descriptor.label {
            Some(label) => format!("{label}: wgpu_batch_norm::{operation}"),
            None => format!("wgpu_batch_norm::{operation}"),
        }
    }
}

fn bind_gradients<'a>(
    bindings: &mut Bindings<'a>,
    input: Option<Gradient<'a>>,
    gamma: Option<Gradient<'a>>,
    beta: Option<Gradient<'a>>,
) -> Result<BackwardOptions, Error> {
    let mode = |gradient: Option<Gradient<'_>>| match gradient {
        None => GradientMode::Omit,
        Some(gradient) if gradient.accumulates() => GradientMode::Accumulate,
        Some(_) => GradientMode::Overwrite,
    };
    if let Some(gradient) = input {
        bindings.tensor(Role::InputGradient, "input_gradient", Usage::Write, gradient.slice())?;
    }
    bindings.vector(Role::GammaGradient, "gamma_gradient", Usage::Write, gamma.map(Gradient::slice))?;
    bindings.vector(Role::BetaGradient, "beta_gradient", Usage::Write, beta.map(Gradient::slice))?;
    Ok(BackwardOptions {
        input_gradient: mode(input),
        gamma_gradient: mode(gamma),
        beta_gradient: mode(beta),
        ..BackwardOptions::default()
    })
}
