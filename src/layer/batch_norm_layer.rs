//! The layer: its buffers, and binding them.

use super::buffers::{Parameter, Running, Workspace, filled, label, whole, zeroed};
use super::descriptor::BatchNormLayerDescriptor;
use super::step::{Kept, LayerBackward, LayerForward, LayerMode, Switch};
use crate::{
    AccumulateBuffers, Activation, ActivationState, BackwardBuffers, BatchNorm, Error, FoldBuffers,
    FrozenBackwardBuffers, Gradient, InferenceBuffers, Kernels, Plan, PopulationBuffers, Renormalization,
    RunningStatistics, Shape, TrainingBuffers,
};

/// A batch norm with parameters, gradients, running statistics and workspace of its own.
///
/// It is a keeper of buffers: it fills in the buffers of a step, and the step is [`BatchNorm`]'s. The tensors stay the
/// caller's, and so do the queue, the submission and the optimiser.
///
/// ```no_run
/// use wgpu_batch_norm::{
///     BackwardBuffers, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Error, Gradient, Shape, wgpu,
/// };
///
/// # fn demo(device: &wgpu::Device, queue: &wgpu::Queue, [x, y, dy, dx]: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// let layer = BatchNormLayer::new(device, &BatchNormLayerDescriptor {
///     batch_norm: BatchNormDescriptor { channels: 64, ..Default::default() },
///     ..Default::default()
/// })?;
/// let plan = layer.plan(&Shape::new(&[32, 64, 56, 56])?)?; // grows the workspace if need be
/// let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..)))?;
/// let backward = layer.bind_backward(&forward, &BackwardBuffers {
///     input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
///     ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
/// })?;
///
/// let mut encoder = device.create_command_encoder(&Default::default());
/// let mut pass = encoder.begin_compute_pass(&Default::default());
/// forward.record(&mut pass); // every training step: nothing is allocated here
/// backward.record(&mut pass);
/// for parameter in layer.parameters() {
///     // Any optimiser: it reads `parameter.gradient` and updates `parameter.value`.
/// }
/// drop(pass);
/// queue.submit([encoder.finish()]);
///
/// layer.eval(); // `forward` now normalises with the running statistics, and `backward` goes through them
/// # Ok(()) }
/// ```
///
/// # More than this
///
/// The buffers that [`BatchNormLayer::training_buffers`] and [`BatchNormLayer::backward_buffers`] fill in are those of every
/// other step, so whatever can be given there is given here in the same way: a residual, an activation mask, padding,
/// gradients that accumulate, or a parameter from an arena of the caller's in the place of the layer's own. For inference by
/// itself, folding and statistics of a data set the layer fills in its buffers likewise; for a batch in parts and backward
/// from the output take [`BatchNormLayer::batch_norm`] and the layer's buffers.
///
/// Programs with several layers share the pipelines: [`BatchNormLayer::with_kernels`].
#[derive(Debug)]
#[doc(alias = "BatchNorm2d")]
pub struct BatchNormLayer {
    pub(super) batch_norm: BatchNorm,
    gamma: Option<Parameter>,
    beta: Option<Parameter>,
    pub(super) running: Option<Running>,
    pub(super) initial: [Option<f32>; 2],
    workspace: Workspace,
    mode: Switch,
}

/// A parameter of a layer, for an optimiser, on the device or on the host.
///
/// On the host: read `gradient`, and write what follows from it to `value`. Steps that are bound see it from the next submission on.
///
/// ```no_run
/// # use wgpu_batch_norm::{BatchNormLayer, wgpu};
/// // Values on the host, and the gradients that were read from `parameter.gradient`: gamma, then beta.
/// fn descend(layer: &BatchNormLayer, queue: &wgpu::Queue, values: &mut [Vec<f32>], gradients: &[Vec<f32>], rate: f32) {
///     for ((parameter, values), gradients) in layer.parameters().zip(values).zip(gradients) {
///         values.iter_mut().zip(gradients).for_each(|(value, gradient)| *value -= rate * gradient);
///         queue.write_buffer(parameter.value, 0, bytemuck::cast_slice(values));
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LayerParameter<'a> {
    /// `gamma` or `beta`.
    pub name: &'static str,
    /// C values of f32.
    pub value: &'a wgpu::Buffer,
    /// C values of f32, as the last backward left them.
    pub gradient: &'a wgpu::Buffer,
}

impl BatchNormLayer {
    /// A layer with kernels of its own, in training mode.
    ///
    /// # Errors
    /// As [`BatchNormDescriptor::validate`](crate::BatchNormDescriptor::validate), and [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn new(device: &wgpu::Device, descriptor: &BatchNormLayerDescriptor) -> Result<Self, Error> {
        Self::with_kernels(&Kernels::new(device), descriptor)
    }

    /// A layer on the device of `kernels`, in training mode.
    ///
    /// # Errors
    /// As [`BatchNormLayer::new`].
    pub fn with_kernels(kernels: &Kernels, descriptor: &BatchNormLayerDescriptor) -> Result<Self, Error> {
        let batch_norm = BatchNorm::with_kernels(kernels, &descriptor.batch_norm)?;
        let parameter =
            |names, value: Option<f32>| value.map(|value| Parameter::new(&batch_norm, names, value)).transpose();
        let running = || Running::new(&batch_norm, descriptor.running_sets);
        Ok(Self {
            gamma: parameter(["gamma", "gamma_gradient"], descriptor.gamma)?,
            beta: parameter(["beta", "beta_gradient"], descriptor.beta)?,
            running: descriptor.track_running_statistics.then(running).transpose()?,
            initial: [descriptor.gamma, descriptor.beta],
            // Every plan needs more; until one is made there is nothing to bind.
            workspace: Workspace::new(&batch_norm, 4)?,
            mode: Switch::new(Some(LayerMode::Training)),
            batch_norm,
        })
    }

    /// The batch norm that the steps are of.
    #[must_use]
    pub const fn batch_norm(&self) -> &BatchNorm {
        &self.batch_norm
    }

    /// From now on, forwards normalise with the statistics of the batch and update the running ones.
    pub fn train(&self) {
        self.set_mode(LayerMode::Training);
    }

    /// From now on, forwards normalise with the running statistics, and backwards take those for constants.
    pub fn eval(&self) {
        self.set_mode(LayerMode::Inference);
    }

    /// Sets the mode that forwards are recorded in, those that are bound already included.
    pub fn set_mode(&self, mode: LayerMode) {
        self.mode.set(mode);
    }

    /// The mode that forwards are recorded in.
    #[must_use]
    pub fn mode(&self) -> LayerMode {
        self.mode.get().unwrap_or_default()
    }

    /// Plans a shape, and gets a larger workspace if this one is too small for it. Steps that are bound keep theirs.
    ///
    /// Workspaces that were outgrown stay with the layer and are together smaller than the last one; a program that plans its largest
    /// shape first has none.
    ///
    /// # Errors
    /// As [`BatchNorm::plan`], and [`Error::Device`], [`Error::OutOfMemory`].
    pub fn plan(&self, shape: &Shape) -> Result<Plan, Error> {
        let plan = self.batch_norm.plan(shape)?;
        self.reserve(&plan)?;
        Ok(plan)
    }

    /// Gets a larger workspace if this one is too small for a plan that was made elsewhere: with strategies of the caller's
    /// choice, or by a layer that is described alike.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::OutOfMemory`].
    pub fn reserve(&self, plan: &Plan) -> Result<(), Error> {
        self.workspace.reserve(&self.batch_norm, plan.workspace_size())
    }

    /// What [`BatchNormLayer::bind_forward`] takes, with the layer's own buffers in their places. `saved` is left to it.
    #[must_use]
    pub fn training_buffers<'a>(
        &'a self,
        input: wgpu::BufferSlice<'a>,
        output: wgpu::BufferSlice<'a>,
    ) -> TrainingBuffers<'a> {
        TrainingBuffers {
            gamma: self.gamma().map(whole),
            beta: self.beta().map(whole),
            running: self.running.as_ref().map(Running::own),
            ..TrainingBuffers::new(input, output, whole(self.workspace()))
        }
    }

    /// What [`BatchNorm::bind_inference`] takes, with the layer's own buffers in their places; `None` without running
    /// statistics. For shapes that are only inferred: that takes half the pipelines, and one value a channel is fine.
    #[must_use]
    pub fn inference_buffers<'a>(
        &'a self,
        input: wgpu::BufferSlice<'a>,
        output: wgpu::BufferSlice<'a>,
    ) -> Option<InferenceBuffers<'a>> {
        let RunningStatistics { mean, variance, .. } = self.running.as_ref()?.own();
        Some(InferenceBuffers {
            gamma: self.gamma().map(whole),
            beta: self.beta().map(whole),
            ..InferenceBuffers::new(input, output, mean, variance)
        })
    }

    /// What [`BatchNormLayer::bind_backward`] takes, with the layer's own buffers in their places, what `forward` saves, and what
    /// it was bound to: gamma and beta, `valid`, and the residual of an activation that is recomputed. The gradients of gamma and
    /// beta overwrite the layer's, or add to them by [`BackwardBuffers::accumulating_parameters`]; that of the input is not asked
    /// for yet.
    ///
    /// `input` is x as forward read it. An activation's derivative is taken from it; where that is not what you want, give
    /// `activation` y or the mask of forward.
    #[must_use]
    pub fn backward_buffers<'a>(
        &'a self,
        forward: &'a LayerForward,
        input: wgpu::BufferSlice<'a>,
        output_gradient: wgpu::BufferSlice<'a>,
    ) -> BackwardBuffers<'a> {
        BackwardBuffers {
            gamma: forward.gamma.as_ref().map(Kept::slice),
            beta: forward.beta.as_ref().map(Kept::slice),
            activation: ActivationState::Recompute { residual: forward.residual.as_ref().map(Kept::slice) },
            saved: Some(forward.saved()),
            valid: forward.valid.as_ref().map(Kept::slice),
            renormalization: forward.renormalization(),
            gamma_gradient: self.gamma_gradient().map(|buffer| Gradient::Overwrite(whole(buffer))),
            beta_gradient: self.beta_gradient().map(|buffer| Gradient::Overwrite(whole(buffer))),
            ..BackwardBuffers::new(input, output_gradient, whole(self.workspace()))
        }
    }

    /// What [`BatchNorm::bind_fold`] takes, with the layer's own buffers in their places, for a layer before this one without a
    /// bias of its own; `None` without running statistics.
    ///
    /// ```no_run
    /// # use wgpu_batch_norm::{BatchNormLayer, Error, FoldBuffers, Shape, wgpu};
    /// # fn demo(layer: &BatchNormLayer, pass: &mut wgpu::ComputePass<'_>, [weight, bias, folded_weight, folded_bias]: [&wgpu::Buffer; 4])
    /// # -> Result<(), Error> {
    /// let plan = layer.batch_norm().plan(&Shape::flat(1, 64, 32 * 3 * 3))?; // a convolution's weights, [64, 32, 3, 3]
    /// if let Some(own) = layer.fold_buffers(weight.slice(..), folded_weight.slice(..), folded_bias.slice(..)) {
    ///     let buffers = FoldBuffers { bias: Some(bias.slice(..)), ..own };
    ///     layer.batch_norm().bind_fold(&plan, &buffers)?.record(pass);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn fold_buffers<'a>(
        &'a self,
        weight: wgpu::BufferSlice<'a>,
        folded_weight: wgpu::BufferSlice<'a>,
        folded_bias: wgpu::BufferSlice<'a>,
    ) -> Option<FoldBuffers<'a>> {
        let RunningStatistics { mean, variance, .. } = self.running.as_ref()?.own();
        Some(FoldBuffers {
            gamma: self.gamma().map(whole),
            beta: self.beta().map(whole),
            ..FoldBuffers::new(weight, mean, variance, folded_weight, folded_bias)
        })
    }

    /// What [`BatchNorm::bind_accumulate`] takes, with the layer's workspace in its place; where the batch is padded, give it the
    /// `valid` of forward too.
    ///
    /// With [`BatchNormLayer::population_buffers`]: exact running statistics of a whole data set, in the place of an average over
    /// the last batches. Each batch goes through the network with statistics of its own, as in training, and is added up.
    ///
    /// ```no_run
    /// # use wgpu_batch_norm::{BatchNormLayer, Error, LayerForward, wgpu};
    /// # fn demo(layer: &BatchNormLayer, forward: &LayerForward, [x, moments]: [&wgpu::Buffer; 2], pass: &mut wgpu::ComputePass<'_>)
    /// # -> Result<(), Error> {
    /// // `moments`: `plan.moments_size()` bytes, zero at first.
    /// let plan = forward.plan();
    /// let add = layer.batch_norm().bind_accumulate(plan, &layer.accumulate_buffers(x.slice(..), moments.slice(..)))?;
    /// let buffers = layer.population_buffers(moments.slice(..)).expect("the layer tracks statistics");
    /// let conclude = layer.batch_norm().bind_population(plan, &buffers)?;
    ///
    /// for _batch in 0..100 {
    ///     // … the next batch, and the layers before …
    ///     add.record(pass);
    ///     forward.record_without_running_update(pass); // in training mode
    /// }
    /// conclude.record(pass); // once
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn accumulate_buffers<'a>(
        &'a self,
        input: wgpu::BufferSlice<'a>,
        moments: wgpu::BufferSlice<'a>,
    ) -> AccumulateBuffers<'a> {
        AccumulateBuffers { input, moments, valid: None, workspace: whole(self.workspace()) }
    }

    /// What [`BatchNorm::bind_population`] takes, with the layer's running statistics in their places; `None` without any. The
    /// counter of batches stays as it is.
    #[must_use]
    pub fn population_buffers<'a>(&'a self, moments: wgpu::BufferSlice<'a>) -> Option<PopulationBuffers<'a>> {
        let RunningStatistics { mean, variance, .. } = self.running.as_ref()?.own();
        Some(PopulationBuffers { moments, running_mean: mean, running_variance: variance })
    }

    /// Records setting the gradients of gamma and beta to 0, for backwards that all add to them
    /// ([`BackwardBuffers::accumulating_parameters`]).
    #[doc(alias = "zero_grad")]
    pub fn clear_gradients(&self, encoder: &mut wgpu::CommandEncoder) {
        for parameter in self.parameters() {
            encoder.clear_buffer(parameter.gradient, 0, None);
        }
    }

    /// Binds forward in both modes, as [`BatchNorm::bind_training`] and [`BatchNorm::bind_inference`]; which of them is
    /// recorded is up to the layer's mode at that time.
    ///
    /// The statistics for backward are saved in a buffer that is created here, unless `saved` is given. It holds NaN until forward
    /// has run, so that gradients show a backward without its forward. Inference reads the running statistics that training
    /// updates, or else the layer's; without any it takes those of the batch.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_training`] and [`BatchNorm::bind_inference`]. What only one of them refuses is refused all the same:
    /// one value a channel in training ([`Error::OneSample`]), a mask of a padded batch in inference
    /// ([`Error::PaddedActivationMask`]). Bind the other one alone then, by [`BatchNormLayer::batch_norm`].
    pub fn bind_forward(&self, plan: &Plan, buffers: &TrainingBuffers<'_>) -> Result<LayerForward, Error> {
        let saved = match buffers.saved {
            Some(slice) => Kept::new(slice),
            None => Kept::new(whole(&filled(&self.batch_norm, "saved", plan.saved_size(), f32::NAN)?)),
        };
        let training =
            self.batch_norm.bind_training(plan, &TrainingBuffers { saved: Some(saved.slice()), ..*buffers })?;
        let running = buffers.running.or_else(|| self.running.as_ref().map(Running::own));
        let recorded = running.map(|running| [running.mean, running.variance]);
        let inference = |[running_mean, running_variance]: [wgpu::BufferSlice<'_>; 2]| {
            let buffers = InferenceBuffers {
                input: buffers.input,
                output: buffers.output,
                residual: buffers.residual,
                activation_mask: buffers.activation_mask,
                gamma: buffers.gamma,
                beta: buffers.beta,
                running_mean,
                running_variance,
                valid: buffers.valid,
            };
            self.batch_norm.bind_inference(plan, &buffers)
        };
        let recomputed = self.batch_norm.descriptor().activation != Activation::Identity;
        Ok(LayerForward {
            label: label(&self.batch_norm, "layer_forward"),
            training,
            inference: recorded.map(inference).transpose()?,
            saved,
            renormalization: buffers.renormalization.map(|renormalization| Kept::new(renormalization.saved)),
            gamma: buffers.gamma.map(Kept::new),
            beta: buffers.beta.map(Kept::new),
            valid: buffers.valid.map(Kept::new),
            residual: buffers.residual.filter(|_| recomputed).map(Kept::new),
            recorded: recorded.map(|slices| slices.map(Kept::new)),
            plan: plan.clone(),
            mode: self.mode.clone(),
            went: Switch::new(None),
        })
    }

    /// As [`BatchNormLayer::bind_forward`], with batch renormalization ([`Renormalization`]) in training. R and D are kept for
    /// backward in a buffer that is created here; inference has neither.
    ///
    /// `limits` are `r_max` and `d_max`, two values, which the program may change between steps.
    ///
    /// # Errors
    /// As [`BatchNormLayer::bind_forward`], and [`Error::MissingRunningStatistics`].
    pub fn bind_renormalized_forward(
        &self,
        plan: &Plan,
        buffers: &TrainingBuffers<'_>,
        limits: wgpu::BufferSlice<'_>,
    ) -> Result<LayerForward, Error> {
        let saved = zeroed(&self.batch_norm, "renormalization", plan.renormalization_size())?;
        let renormalization = Some(Renormalization { limits, saved: whole(&saved) });
        self.bind_forward(plan, &TrainingBuffers { renormalization, ..*buffers })
    }

    /// Binds the backward of `forward` in both modes, as [`BatchNorm::bind_backward`] and
    /// [`BatchNorm::bind_backward_frozen`]; it is recorded as `forward` was last.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_backward`] and [`BatchNorm::bind_backward_frozen`].
    pub fn bind_backward(&self, forward: &LayerForward, buffers: &BackwardBuffers<'_>) -> Result<LayerBackward, Error> {
        let training = self.batch_norm.bind_backward(&forward.plan, buffers)?;
        let frozen = |[mean, variance]: &[Kept; 2]| {
            let buffers = FrozenBackwardBuffers {
                input: Some(buffers.input),
                output_gradient: buffers.output_gradient,
                gamma: buffers.gamma,
                beta: buffers.beta,
                activation: buffers.activation,
                running_mean: mean.slice(),
                running_variance: variance.slice(),
                valid: buffers.valid,
                input_gradient: buffers.input_gradient,
                residual_gradient: buffers.residual_gradient,
                gamma_gradient: buffers.gamma_gradient,
                beta_gradient: buffers.beta_gradient,
                workspace: buffers.workspace,
            };
            self.batch_norm.bind_backward_frozen(&forward.plan, &buffers)
        };
        Ok(LayerBackward {
            label: label(&self.batch_norm, "layer_backward"),
            training,
            frozen: forward.recorded.as_ref().map(frozen).transpose()?,
            mode: self.mode.clone(),
            went: forward.went.clone(),
        })
    }
}

/// # Buffers
///
/// All of them can be bound as storage and copied from and to. They have exactly the size of their role, but for several sets of running
/// statistics, see [`BatchNormLayer::running_set`].
impl BatchNormLayer {
    /// γ, C values; `None` if the layer has none.
    #[must_use]
    #[doc(alias = "weight")]
    #[doc(alias = "scale")]
    pub fn gamma(&self) -> Option<&wgpu::Buffer> {
        self.gamma.as_ref().map(|parameter| &parameter.value)
    }

    /// β, C values; `None` if the layer has none.
    #[must_use]
    #[doc(alias = "bias")]
    #[doc(alias = "shift")]
    pub fn beta(&self) -> Option<&wgpu::Buffer> {
        self.beta.as_ref().map(|parameter| &parameter.value)
    }

    /// dL/dγ, C values; `None` if the layer has no gamma.
    #[must_use]
    #[doc(alias = "weight_grad")]
    pub fn gamma_gradient(&self) -> Option<&wgpu::Buffer> {
        self.gamma.as_ref().map(|parameter| &parameter.gradient)
    }

    /// dL/dβ, C values; `None` if the layer has no beta.
    #[must_use]
    #[doc(alias = "bias_grad")]
    pub fn beta_gradient(&self) -> Option<&wgpu::Buffer> {
        self.beta.as_ref().map(|parameter| &parameter.gradient)
    }

    /// A set of running statistics, for the place of the layer's own in steps; `None` if there is none of that index.
    ///
    /// ```no_run
    /// # use wgpu_batch_norm::{BatchNormLayer, Error, LayerForward, Plan, TrainingBuffers, wgpu};
    /// # fn demo(layer: &BatchNormLayer, plan: &Plan, x: &wgpu::Buffer, y: &wgpu::Buffer) -> Result<LayerForward, Error> {
    /// // Step 3 of a recurrent network, on a layer with a set a step.
    /// let buffers = TrainingBuffers { running: layer.running_set(3), ..layer.training_buffers(x.slice(..), y.slice(..)) };
    /// layer.bind_forward(plan, &buffers)
    /// # }
    /// ```
    ///
    /// Sets lie where a binding may start, but for those of segments, which stand one right after the other: of these, all but the
    /// first can only be bound where C·4 bytes are a multiple of the device's storage offset alignment. The layer has one counter of batches, which goes with set 0; a
    /// cumulative average of another set needs a counter of the caller's.
    #[must_use]
    pub fn running_set(&self, set: u32) -> Option<RunningStatistics<'_>> {
        self.running.as_ref()?.set(set)
    }

    /// The running mean, C values a set, see [`BatchNormLayer::running_set`]; `None` if statistics are not tracked.
    #[must_use]
    pub fn running_mean(&self) -> Option<&wgpu::Buffer> {
        self.running.as_ref().map(|running| &running.mean)
    }

    /// The running variance, C values a set, unbiased or not by the layer's convention; `None` if statistics are not tracked.
    #[must_use]
    #[doc(alias = "running_var")]
    pub fn running_variance(&self) -> Option<&wgpu::Buffer> {
        self.running.as_ref().map(|running| &running.variance)
    }

    /// Batches that the running statistics have seen, one `u32`; `None` if statistics are not tracked.
    #[must_use]
    #[doc(alias = "num_batches_tracked")]
    pub fn batches_tracked(&self) -> Option<&wgpu::Buffer> {
        self.running.as_ref().map(|running| &running.batches_tracked)
    }

    /// Scratch that is large enough for every shape planned so far. Holds nothing between steps, so steps of other layers that run
    /// before or after may share it.
    #[must_use]
    #[doc(alias = "scratch")]
    pub fn workspace(&self) -> &wgpu::Buffer {
        self.workspace.buffer()
    }

    /// What an optimiser updates: gamma and beta, as far as the layer has them.
    pub fn parameters(&self) -> impl Iterator<Item = LayerParameter<'_>> {
        [("gamma", &self.gamma), ("beta", &self.beta)].into_iter().filter_map(|(name, parameter)| {
            let Parameter { value, gradient } = parameter.as_ref()?;
            Some(LayerParameter { name, value, gradient })
        })
    }
}
