//! The layer: its buffers, binding them, and their way from and to the host.

use super::state::{LayerState, RunningState};
use super::step::{Kept, LayerBackward, LayerForward, LayerMode, Switch};
use crate::gpu::scoped;
use crate::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, Error, FrozenBackwardBuffers, Gradient, InferenceBuffers, Kernels,
    Plan, RunningStatistics, Shape, TrainingBuffers,
};

/// Describes a layer. The default is PyTorch's, but for the channel count, of which there is none.
///
/// ```
/// use wgpu_batch_norm::{BatchNormDescriptor, BatchNormLayerDescriptor};
/// // The last batch norm of a residual block, which starts as nothing (Goyal et al., arXiv 1706.02677, section 5.1).
/// let descriptor = BatchNormLayerDescriptor {
///     batch_norm: BatchNormDescriptor { channels: 64, label: Some("block 3".into()), ..Default::default() },
///     gamma: Some(0.0),
///     ..Default::default()
/// };
/// # assert_eq!((descriptor.beta, descriptor.track_running_statistics), (Some(0.0), true));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormLayerDescriptor {
    /// What is computed. Its label names the buffers too.
    pub batch_norm: BatchNormDescriptor,
    /// γ of every channel at first; `None`: no gamma, which means 1 for good. PyTorch's `affine=False` is none of either.
    /// Default: 1.
    #[doc(alias = "affine")]
    #[doc(alias = "weight")]
    pub gamma: Option<f32>,
    /// β of every channel at first; `None`: no beta, which means 0 for good. Default: 0.
    #[doc(alias = "bias")]
    pub beta: Option<f32>,
    /// Whether there are running statistics: a mean of 0, a variance of 1 and 0 batches at first. Without them, inference takes
    /// the statistics of the batch. Default: true.
    #[doc(alias = "track_running_stats")]
    pub track_running_statistics: bool,
    /// Sets of running statistics, of C values each: as many as the shapes have segments where these have their own
    /// ([`SegmentRunning::Separate`](crate::SegmentRunning::Separate)), otherwise 1. 0 counts as 1. Default: 1.
    pub running_sets: u32,
}

impl Default for BatchNormLayerDescriptor {
    fn default() -> Self {
        Self {
            batch_norm: BatchNormDescriptor::default(),
            gamma: Some(1.0),
            beta: Some(0.0),
            track_running_statistics: true,
            running_sets: 1,
        }
    }
}

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
/// let mut layer = BatchNormLayer::new(device, &BatchNormLayerDescriptor {
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
/// gradients that accumulate, or a parameter from an arena of the caller's in the place of the layer's own. For other
/// operations (folding, statistics of a data set, a batch in parts, backward from the output) take
/// [`BatchNormLayer::batch_norm`] and the layer's buffers.
///
/// Programs with several layers share the pipelines: [`BatchNormLayer::with_kernels`].
#[derive(Debug)]
#[doc(alias = "BatchNorm2d")]
pub struct BatchNormLayer {
    batch_norm: BatchNorm,
    gamma: Option<Parameter>,
    beta: Option<Parameter>,
    running: Option<Running>,
    workspace: wgpu::Buffer,
    mode: Switch,
}

#[derive(Debug)]
struct Parameter {
    value: wgpu::Buffer,
    gradient: wgpu::Buffer,
}

#[derive(Debug)]
struct Running {
    mean: wgpu::Buffer,
    variance: wgpu::Buffer,
    batches_tracked: wgpu::Buffer,
}

/// A parameter of a layer, for an optimiser.
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

/// A buffer that is part of a state.
struct Part<'a> {
    name: &'static str,
    buffer: &'a wgpu::Buffer,
}

impl BatchNormLayer {
    /// A layer with kernels of its own, in training mode.
    ///
    /// # Errors
    /// As [`BatchNormDescriptor::validate`], and [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn new(device: &wgpu::Device, descriptor: &BatchNormLayerDescriptor) -> Result<Self, Error> {
        Self::with_kernels(&Kernels::new(device), descriptor)
    }

    /// A layer on the device of `kernels`, in training mode.
    ///
    /// # Errors
    /// As [`BatchNormLayer::new`].
    pub fn with_kernels(kernels: &Kernels, descriptor: &BatchNormLayerDescriptor) -> Result<Self, Error> {
        let batch_norm = BatchNorm::with_kernels(kernels, &descriptor.batch_norm)?;
        let size = u64::from(batch_norm.descriptor().channels) * 4;
        let running_size = size.saturating_mul(u64::from(descriptor.running_sets.max(1)));
        let parameter = |name, gradient_name, value: Option<f32>| {
            let make = |value| {
                let value = filled(&batch_norm, name, size, value)?;
                Ok::<_, Error>(Parameter { value, gradient: zeroed(&batch_norm, gradient_name, size)? })
            };
            value.map(make).transpose()
        };
        let running = || {
            Ok::<_, Error>(Running {
                mean: zeroed(&batch_norm, "running_mean", running_size)?,
                variance: filled(&batch_norm, "running_variance", running_size, 1.0)?,
                batches_tracked: zeroed(&batch_norm, "batches_tracked", 4)?,
            })
        };
        Ok(Self {
            gamma: parameter("gamma", "gamma_gradient", descriptor.gamma)?,
            beta: parameter("beta", "beta_gradient", descriptor.beta)?,
            running: descriptor.track_running_statistics.then(running).transpose()?,
            // Every plan needs more; until one is made there is nothing to bind.
            workspace: zeroed(&batch_norm, "workspace", 4)?,
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
    /// # Errors
    /// As [`BatchNorm::plan`], and [`Error::Device`], [`Error::OutOfMemory`].
    pub fn plan(&mut self, shape: &Shape) -> Result<Plan, Error> {
        let plan = self.batch_norm.plan(shape)?;
        self.reserve(&plan)?;
        Ok(plan)
    }

    /// Gets a larger workspace if this one is too small for a plan that was made elsewhere: with strategies of the caller's
    /// choice, or by a layer that is described alike.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::OutOfMemory`].
    pub fn reserve(&mut self, plan: &Plan) -> Result<(), Error> {
        if self.workspace.size() < plan.workspace_size() {
            self.workspace = zeroed(&self.batch_norm, "workspace", plan.workspace_size())?;
        }
        Ok(())
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
            running: self.running.as_ref().map(|running| RunningStatistics {
                mean: whole(&running.mean),
                variance: whole(&running.variance),
                batches_tracked: Some(whole(&running.batches_tracked)),
            }),
            ..TrainingBuffers::new(input, output, whole(&self.workspace))
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
        let running = self.running.as_ref()?;
        Some(InferenceBuffers {
            gamma: self.gamma().map(whole),
            beta: self.beta().map(whole),
            ..InferenceBuffers::new(input, output, whole(&running.mean), whole(&running.variance))
        })
    }

    /// What [`BatchNormLayer::bind_backward`] takes, with the layer's own buffers and what `forward` saves in their places. The
    /// gradients of gamma and beta overwrite the layer's; that of the input is not asked for yet.
    #[must_use]
    pub fn backward_buffers<'a>(
        &'a self,
        forward: &'a LayerForward,
        input: wgpu::BufferSlice<'a>,
        output_gradient: wgpu::BufferSlice<'a>,
    ) -> BackwardBuffers<'a> {
        BackwardBuffers {
            gamma: self.gamma().map(whole),
            beta: self.beta().map(whole),
            saved: Some(forward.saved()),
            gamma_gradient: self.gamma_gradient().map(|buffer| Gradient::Overwrite(whole(buffer))),
            beta_gradient: self.beta_gradient().map(|buffer| Gradient::Overwrite(whole(buffer))),
            ..BackwardBuffers::new(input, output_gradient, whole(&self.workspace))
        }
    }

    /// Binds forward in both modes, as [`BatchNorm::bind_training`] and [`BatchNorm::bind_inference`]; which of them is
    /// recorded is up to the layer's mode at that time.
    ///
    /// The statistics for backward are saved in a buffer that is created here, unless `saved` is given. Inference reads the
    /// running statistics that training updates, or else the layer's; without any it takes those of the batch.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_training`] and [`BatchNorm::bind_inference`]. What only one of them refuses is refused all the same:
    /// one value a channel in training ([`Error::OneSample`]), a mask of a padded batch in inference
    /// ([`Error::PaddedActivationMask`]). Bind the other one alone then, by [`BatchNormLayer::batch_norm`].
    pub fn bind_forward(&self, plan: &Plan, buffers: &TrainingBuffers<'_>) -> Result<LayerForward, Error> {
        let saved = match buffers.saved {
            Some(slice) => Kept::new(slice),
            None => Kept::new(whole(&zeroed(&self.batch_norm, "saved", plan.saved_size())?)),
        };
        let training =
            self.batch_norm.bind_training(plan, &TrainingBuffers { saved: Some(saved.slice()), ..*buffers })?;
        let given = buffers.running.map(|running| [running.mean, running.variance]);
        let own = || self.running.as_ref().map(|running| [whole(&running.mean), whole(&running.variance)]);
        let recorded = given.or_else(own);
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
        Ok(LayerForward {
            label: label(&self.batch_norm, "layer_forward"),
            training,
            inference: recorded.map(inference).transpose()?,
            saved,
            recorded: recorded.map(|slices| slices.map(Kept::new)),
            plan: plan.clone(),
            mode: self.mode.clone(),
            went: Switch::new(None),
        })
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
/// All of them can be bound as storage and copied from and to. They have exactly the size of their role.
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

    /// The running mean, C values a set; `None` if statistics are not tracked.
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
    pub const fn workspace(&self) -> &wgpu::Buffer {
        &self.workspace
    }

    /// What an optimiser updates: gamma and beta, as far as the layer has them.
    pub fn parameters(&self) -> impl Iterator<Item = LayerParameter<'_>> {
        [("gamma", &self.gamma), ("beta", &self.beta)].into_iter().filter_map(|(name, parameter)| {
            let Parameter { value, gradient } = parameter.as_ref()?;
            Some(LayerParameter { name, value, gradient })
        })
    }
}

/// # State
///
/// A state goes to the layer through the caller's queue, and from it through a buffer of the caller's, which the caller maps:
/// nothing here waits.
///
/// ```no_run
/// # use wgpu_batch_norm::{BatchNormLayer, Error, LayerState, wgpu};
/// fn load(layer: &BatchNormLayer, queue: &wgpu::Queue, state: &LayerState) -> Result<(), Error> {
///     layer.load_state(queue, state) // takes effect before the next submission
/// }
///
/// fn save(layer: &BatchNormLayer, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<LayerState, Error> {
///     let staging = device.create_buffer(&wgpu::BufferDescriptor {
///         label: Some("state"),
///         size: layer.state_size(),
///         usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
///         mapped_at_creation: false,
///     });
///     let mut encoder = device.create_command_encoder(&Default::default());
///     layer.record_state_copy(&mut encoder, staging.slice(..))?;
///     queue.submit([encoder.finish()]);
///     staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("the staging buffer is mapped"));
///     device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there"); // or from the event loop
///     let bytes = staging.get_mapped_range(..).expect("the staging buffer is mapped");
///     layer.state_from_bytes(&bytes)
/// }
/// ```
impl BatchNormLayer {
    /// Writes a state to the layer's buffers. As with any [`wgpu::Queue::write_buffer`], whatever is submitted afterwards sees it,
    /// and steps that are bound stay bound.
    ///
    /// The queue must be that of the layer's device: wgpu reports another one's to the handler of that device.
    ///
    /// # Errors
    /// [`Error::MissingState`] and [`Error::UnexpectedState`] where layer and state do not have the same parts,
    /// [`Error::WrongLength`], [`Error::Device`]. But for the last one, nothing is written then.
    #[doc(alias = "load_state_dict")]
    pub fn load_state(&self, queue: &wgpu::Queue, state: &LayerState) -> Result<(), Error> {
        let LayerState { gamma, beta, running } = state;
        let mut writes: Vec<(&wgpu::Buffer, &[u8])> = Vec::new();
        for (part, buffer, values) in [("gamma", self.gamma(), gamma), ("beta", self.beta(), beta)] {
            if let Some((buffer, values)) = both(part, buffer, values.as_ref())? {
                writes.push((buffer, vector(part, buffer, values)?));
            }
        }
        if let Some((own, state)) = both("running", self.running.as_ref(), running.as_ref())? {
            writes.push((&own.mean, vector("running.mean", &own.mean, &state.mean)?));
            writes.push((&own.variance, vector("running.variance", &own.variance, &state.variance)?));
            writes.push((&own.batches_tracked, bytemuck::bytes_of(&state.batches_tracked)));
        }
        scoped(self.device(), "the state of a layer", || {
            for (buffer, bytes) in writes {
                queue.write_buffer(buffer, 0, bytes);
            }
            Ok(())
        })
    }

    /// Bytes of the layer's state, a multiple of 4; 0 for a layer without parameters and running statistics.
    #[must_use]
    pub fn state_size(&self) -> u64 {
        self.parts().map(|part| part.buffer.size()).sum()
    }

    /// Records copies of all that is the layer's state to a slice of [`BatchNormLayer::state_size`] bytes, for
    /// [`BatchNormLayer::state_from_bytes`]. Slices for several layers may lie in one buffer, one after the other.
    ///
    /// # Errors
    /// [`Error::WrongSize`], [`Error::MissingCopyUsage`], [`Error::MisalignedCopy`], and [`Error::OverlappingBuffers`] for a slice
    /// of the layer's own buffers. Nothing is recorded then.
    pub fn record_state_copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        staging: wgpu::BufferSlice<'_>,
    ) -> Result<(), Error> {
        let (expected, actual) = (self.state_size(), staging.size());
        if actual != expected {
            return Err(Error::WrongSize { binding: "staging", expected, actual });
        }
        if !staging.buffer().usage().contains(wgpu::BufferUsages::COPY_DST) {
            return Err(Error::MissingCopyUsage { binding: "staging" });
        }
        if !staging.offset().is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT) {
            return Err(Error::MisalignedCopy { binding: "staging", offset: staging.offset() });
        }
        if let Some(part) = self.parts().find(|part| part.buffer == staging.buffer()) {
            return Err(Error::OverlappingBuffers { first: part.name, second: "staging" });
        }
        let mut offset = staging.offset();
        for Part { buffer, .. } in self.parts() {
            encoder.copy_buffer_to_buffer(buffer, 0, staging.buffer(), offset, buffer.size());
            offset += buffer.size();
        }
        Ok(())
    }

    /// The state in the bytes that [`BatchNormLayer::record_state_copy`] has filled, of this layer or of one described alike.
    ///
    /// # Errors
    /// [`Error::WrongSize`].
    pub fn state_from_bytes(&self, bytes: &[u8]) -> Result<LayerState, Error> {
        let (expected, actual) = (self.state_size(), bytes.len() as u64);
        if actual != expected {
            return Err(Error::WrongSize { binding: "bytes", expected, actual });
        }
        let mut words = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
        let mut vector = |buffer: &wgpu::Buffer| -> Vec<f32> {
            words.by_ref().take(buffer.size() as usize / 4).map(f32::from_bits).collect()
        };
        let (gamma, beta) = (self.gamma().map(&mut vector), self.beta().map(&mut vector));
        let vectors = self.running.as_ref().map(|running| (vector(&running.mean), vector(&running.variance)));
        let running = vectors.map(|(mean, variance)| RunningState {
            mean,
            variance,
            batches_tracked: words.next().unwrap_or_default(),
        });
        Ok(LayerState { gamma, beta, running })
    }

    /// What a state is made of, in the order that it is copied in.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let parts = [
            ("gamma", self.gamma()),
            ("beta", self.beta()),
            ("running.mean", self.running_mean()),
            ("running.variance", self.running_variance()),
            ("running.batches_tracked", self.batches_tracked()),
        ];
        parts.into_iter().filter_map(|(name, buffer)| Some(Part { name, buffer: buffer? }))
    }

    fn device(&self) -> &wgpu::Device {
        self.batch_norm.kernels().device()
    }
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferSlice<'_> {
    buffer.slice(..)
}

fn label(batch_norm: &BatchNorm, name: &str) -> String {
    match &batch_norm.descriptor().label {
        Some(label) => format!("{label}: wgpu_batch_norm::{name}"),
        None => format!("wgpu_batch_norm::{name}"),
    }
}

fn describe<'a>(label: &'a str, size: u64, mapped_at_creation: bool) -> wgpu::BufferDescriptor<'a> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation }
}

/// A buffer of zeros, as wgpu makes them.
fn zeroed(batch_norm: &BatchNorm, name: &str, size: u64) -> Result<wgpu::Buffer, Error> {
    let device = batch_norm.kernels().device();
    let label = label(batch_norm, name);
    scoped(device, "a buffer of a layer", || Ok(device.create_buffer(&describe(&label, size, false))))
}

/// A buffer of one value, written without a queue.
fn filled(batch_norm: &BatchNorm, name: &str, size: u64, value: f32) -> Result<wgpu::Buffer, Error> {
    let device = batch_norm.kernels().device();
    let label = label(batch_norm, name);
    scoped(device, "a buffer of a layer", || {
        let buffer = device.create_buffer(&describe(&label, size, true));
        // Scopes catch whatever else could be wrong with the buffer.
        let mut view = buffer.get_mapped_range_mut(..).map_err(|_| Error::DeviceLost)?;
        view.copy_from_slice(&value.to_ne_bytes().repeat(size as usize / 4));
        drop(view);
        buffer.unmap();
        Ok(buffer)
    })
}

/// What layer and state both have.
fn both<L, S>(part: &'static str, layer: Option<L>, state: Option<S>) -> Result<Option<(L, S)>, Error> {
    match (layer, state) {
        (Some(layer), Some(state)) => Ok(Some((layer, state))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::MissingState { part }),
        (None, Some(_)) => Err(Error::UnexpectedState { part }),
    }
}

fn vector<'a>(binding: &'static str, buffer: &wgpu::Buffer, values: &'a [f32]) -> Result<&'a [u8], Error> {
    let (expected, actual) = (buffer.size() / 4, values.len() as u64);
    if actual == expected {
        Ok(bytemuck::cast_slice(values))
    } else {
        Err(Error::WrongLength { binding, expected, actual })
    }
}
