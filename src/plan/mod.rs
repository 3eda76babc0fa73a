//! The planner: from a descriptor, a shape and a device's limits to dispatches, or a typed error.
//!
//! Free of device calls; [`DeviceProfile`] carries what it needs to know. See `ARCHITECTURE.md` for the families.

mod geometry;
mod kernel;
mod operation;
mod params;
mod positions;
mod profile;
mod selection;
mod strategy;
mod window;
mod workspace;

#[cfg(test)]
mod tests;

pub use kernel::{
    Access, Elementwise, Family, Fusion, Kernel, Normalizer, Operation, Reduction, Role, Storage, Trips, Walk,
};
#[cfg(test)]
pub(crate) use operation::CompanionUse;
pub(crate) use operation::{
    BackwardOptions, Derivative, Fixed, FoldOptions, GradientMode, InferenceOptions, Sequences, TrainingOptions,
};
pub(crate) use params::Params;
pub use profile::{AdapterClass, DeviceProfile};
pub use strategy::{Strategies, Strategy};
pub(crate) use window::Region;
pub(crate) use workspace::Workspace;

use std::sync::Arc;

use crate::convention::SegmentRunning;
use crate::problem::PositionAxis;
use crate::{
    Activation, ActivationCost, ActivationSource, BatchNormDescriptor, Error, Problem, Segmentation, SequenceAxes,
    Shape, trace,
};
use geometry::{Geometry, Tensor};
use strategy::Choice;
use window::{Windows, capacity, yielding};

/// What the kernels' 32-bit element indices serve in one dispatch, with room for the last, overhanging loop trip.
const MAX_ELEMENTS: u64 = 1 << 31;

/// Segments whose gradients one invocation adds up, within the loops that every driver allows.
const SEGMENTS_PER_POSITION: u64 = 1 << 15;

/// One batch norm on one shape: sizes of all buffers and, inside, the dispatches of every operation.
///
/// A plan is host data: making one needs no device and cloning one is cheap. Keep it per shape.
///
/// ```
/// use wgpu_batch_norm::{AdapterClass, BatchNormDescriptor, DeviceProfile, Plan, Shape};
/// let descriptor = BatchNormDescriptor { channels: 64, ..Default::default() };
/// let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
/// let plan = Plan::new(&descriptor, &Shape::new(&[32, 64, 56, 56])?, &profile)?;
/// assert_eq!(plan.tensor_size(), 32 * 64 * 56 * 56 * 4);
/// assert!(plan.workspace_size() < plan.tensor_size() / 50);
/// # Ok::<(), wgpu_batch_norm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    descriptor: BatchNormDescriptor,
    profile: DeviceProfile,
    shape: Shape,
    problem: Problem,
    /// As training and its backward go over the tensor.
    batch: Laid,
    /// As everything does that reads running statistics.
    recorded: Laid,
    workspace: Workspace,
}

/// A tensor, and how operations go over it.
#[derive(Clone, Debug, PartialEq)]
struct Laid {
    tensor: Tensor,
    work: Work,
}

/// How operations go over a tensor.
#[derive(Clone, Debug, PartialEq)]
enum Work {
    /// Not at all: the batch is empty.
    Nothing,
    /// Each dispatch over the whole of it.
    Whole(Box<Geometries>),
    /// Each dispatch over a window.
    Windows(Arc<Windows>),
}

impl Laid {
    fn new(tensor: Tensor, profile: &DeviceProfile, strategies: Strategies) -> Result<Self, Error> {
        let fits = |profile| tensor.element.tensor_size(tensor.elements()) <= capacity(tensor, profile);
        let profile = &if fits(profile) { *profile } else { yielding(tensor, profile) };
        let work = if tensor.elements() == 0 {
            Work::Nothing
        } else if fits(profile) {
            Work::Whole(Box::new(Geometries::new(tensor, profile, strategies)?))
        } else {
            Work::Windows(Arc::new(Windows::new(tensor, profile, strategies)?))
        };
        Ok(Self { tensor, work })
    }

    fn slots(&self) -> u64 {
        match &self.work {
            Work::Nothing => 0,
            Work::Whole(geometries) => geometries.slots(),
            Work::Windows(windows) => windows.slots,
        }
    }

    /// Records that reductions leave for the dispatch after, beside channels' parameters: those of every slot and one for the
    /// batch count, and the same again for one slot where slots are merged by a dispatch of its own.
    fn partials(&self) -> u64 {
        let merges_apart = matches!(&self.work, Work::Whole(geometries) if geometries.merge_apart());
        let merged = if merges_apart { self.instances() + 1 } else { 0 };
        // An empty batch has none, but a binding needs bytes.
        self.slots().max(1) * self.instances() + 1 + merged
    }

    /// Ranges that the elements of every instance fall into.
    fn cells(&self) -> u64 {
        match &self.work {
            Work::Nothing | Work::Whole(_) => 1,
            Work::Windows(windows) => windows.cells,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Geometries {
    training: Choice,
    backward: Choice,
    /// The choices where only a split has bindings to spare.
    training_split: Choice,
    backward_split: Choice,
    inference: Geometry,
    /// For reductions that no map follows.
    reduction: Geometry,
    pinned: Strategies,
}

impl Plan {
    /// Plans `shape` for a device with `profile`; [`BatchNorm::plan`](crate::BatchNorm::plan) does it for its device.
    ///
    /// # Errors
    /// The descriptor's, [`Error::ShapeTooLarge`], [`Error::ChannelMismatch`]; with segments [`Error::SegmentsNotServed`],
    /// [`Error::SharedWords`] and [`Error::TooManySegments`]; [`Error::TooManyWindows`]; and [`Error::LimitExceeded`] when the
    /// channels' statistics, or a run of elements that cannot be cut, do not fit one storage binding or a limit is below what
    /// WebGPU guarantees.
    pub fn new(descriptor: &BatchNormDescriptor, shape: &Shape, profile: &DeviceProfile) -> Result<Self, Error> {
        Self::with_strategies(descriptor, shape, profile, Strategies::default())
    }

    /// As [`Plan::new`], with strategies of the caller's choice: to measure them, or where one is known to be better than
    /// what the planner takes. Results are the same up to the order of additions.
    ///
    /// A pin is for the whole operation: a backward without input gradient, and the statistics that a backward takes again
    /// because none were saved, are carried out in one way only, and an empty batch in none. A tensor in windows is gone over in
    /// one way by all operations: pins that contradict each other are refused then.
    ///
    /// # Errors
    /// As [`Plan::new`], and [`Error::StrategyNotServed`] where a strategy cannot serve the shape within the limits;
    /// [`Plan::strategies`] lists those that can.
    pub fn with_strategies(
        descriptor: &BatchNormDescriptor,
        shape: &Shape,
        profile: &DeviceProfile,
        strategies: Strategies,
    ) -> Result<Self, Error> {
        let span = trace::planning(descriptor, shape);
        let plan = Self::without_span(descriptor, shape, profile, strategies);
        span.planned(&plan);
        plan
    }

    fn without_span(
        descriptor: &BatchNormDescriptor,
        shape: &Shape,
        profile: &DeviceProfile,
        strategies: Strategies,
    ) -> Result<Self, Error> {
        descriptor.validate()?;
        let problem = descriptor.problem(shape)?;
        let segmentation = shape.segmentation(descriptor.layout)?;
        let most_instances = segmentation.instances();
        let tensor = |segmentation| Tensor::new(segmentation, descriptor.element, most_instances);
        check_limits(tensor(segmentation), profile)?;
        let separate = descriptor.convention.segment_running == SegmentRunning::Separate;
        let (batch, recorded) = if separate || segmentation.segments() == 1 {
            let laid = Laid::new(tensor(segmentation), profile, strategies)?;
            (laid.clone(), laid)
        } else {
            let recorded = Strategies { inference: strategies.inference, ..Strategies::default() };
            (
                Laid::new(tensor(segmentation), profile, Strategies { inference: None, ..strategies })?,
                Laid::new(tensor(Segmentation::whole(problem)), profile, recorded)?,
            )
        };
        let partials = batch.partials().max(recorded.partials());
        // The batch has the most instances.
        let workspace = Workspace::new(batch.instances(), batch.segments() > 1, partials, profile)?;
        let (descriptor, shape) = (descriptor.clone(), shape.clone());
        Ok(Self { descriptor, profile: *profile, shape, problem, batch, recorded, workspace })
    }

    /// The strategies that can serve an operation on a shape, the planner's choice first; none for an empty batch.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn strategies(
        descriptor: &BatchNormDescriptor,
        shape: &Shape,
        profile: &DeviceProfile,
        operation: Operation,
    ) -> Result<Vec<Strategy>, Error> {
        let plan = Self::new(descriptor, shape, profile)?;
        let Some(chosen) = plan.strategy(operation) else { return Ok(Vec::new()) };
        if operation == Operation::FrozenBackward && plan.recorded != plan.batch {
            return Ok(vec![chosen]);
        }
        let serves = |strategy| {
            let pin = match operation {
                Operation::Training => Strategies { training: Some(strategy), ..Strategies::default() },
                Operation::Backward | Operation::FrozenBackward => {
                    Strategies { backward: Some(strategy), ..Strategies::default() }
                }
            };
            Self::with_strategies(descriptor, shape, profile, pin).is_ok()
        };
        let others = Strategy::ALL.into_iter().filter(|strategy| *strategy != chosen && serves(*strategy));
        Ok(std::iter::once(chosen).chain(others).collect())
    }

    /// The shape as `outer × channels × inner`.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// How the shape falls into instances: what has a mean and a variance of its own.
    #[must_use]
    pub const fn segmentation(&self) -> Segmentation {
        self.batch.tensor.segmentation
    }

    /// Bytes of x, y, the residual and their gradients: `M·C` elements, rounded up to a multiple of 4 bytes.
    #[must_use]
    pub const fn tensor_size(&self) -> u64 {
        self.descriptor.element.tensor_size(self.problem.elements())
    }

    /// Bytes that working in place saves, once where y takes the place of x and once more where dx takes that of dy. With
    /// [`BatchNorm::bind_backward_from_output`](crate::BatchNorm::bind_backward_from_output) the first lasts until backward: only y
    /// is kept, which the layer after this one keeps anyway.
    ///
    /// ```
    /// # use wgpu_batch_norm::{AdapterClass, BatchNormDescriptor, DeviceProfile, ElementType, Plan, Shape};
    /// let descriptor = BatchNormDescriptor { channels: 64, element: ElementType::F16, ..Default::default() };
    /// let plan = Plan::new(&descriptor, &Shape::new(&[32, 64, 56, 56])?, &DeviceProfile::webgpu(AdapterClass::Discrete))?;
    /// assert_eq!(plan.in_place_saving(), 32 * 64 * 56 * 56 * 2);
    /// # Ok::<(), wgpu_batch_norm::Error>(())
    /// ```
    #[must_use]
    pub const fn in_place_saving(&self) -> u64 {
        self.tensor_size()
    }

    /// Bytes of an activation mask: one bit an element, in whole words of 32.
    #[must_use]
    pub const fn mask_size(&self) -> u64 {
        self.problem.elements().div_ceil(32) * 4
    }

    /// Bytes of moments of many batches: 16, one [`ChannelMoments`](crate::ChannelMoments), for each of the running
    /// statistics.
    #[must_use]
    pub const fn moments_size(&self) -> u64 {
        self.recorded.tensor.segmentation.instances() * 16
    }

    /// Bytes of a health report: 4, one [`ChannelHealth`](crate::ChannelHealth), an instance (without segments: a channel).
    #[must_use]
    pub const fn health_size(&self) -> u64 {
        self.batch.tensor.segmentation.instances() * 4
    }

    /// Bytes of what [`BatchNorm::bind_valid`](crate::BatchNorm::bind_valid) writes: 16 a segment (and more for each piece that
    /// windows cut it into), a bit an element, and a bit a position.
    #[must_use]
    pub fn valid_size(&self) -> u64 {
        self.valid_records() * 16 + self.mask_size() + self.problem.count().div_ceil(32) * 4
    }

    /// Bytes of a flag for every position, `M·4` where the whole batch shares its statistics.
    #[must_use]
    pub const fn positions_size(&self) -> u64 {
        self.problem.count() * 4
    }

    /// Bytes of what batch renormalization saves for backward: 8, one
    /// [`ChannelRenormalization`](crate::ChannelRenormalization), an instance (without segments: a channel).
    #[must_use]
    pub const fn renormalization_size(&self) -> u64 {
        self.batch.tensor.segmentation.instances() * 8
    }

    /// Records of valid elements: of the segments of training, and of the whole batch if running statistics are its; each
    /// followed by those of their cells, if there are several.
    fn valid_records(&self) -> u64 {
        let apart = self.batch.segments() != self.recorded.segments();
        self.batch.valid_records() + if apart { self.recorded.valid_records() } else { 0 }
    }

    /// Where the records of the statistics of training or of the running ones begin.
    fn valid_base(&self, laid: &Laid) -> u64 {
        if laid.segments() == self.batch.segments() { 0 } else { self.batch.valid_records() }
    }

    /// What it costs to give backward the activation's derivative from a source, where forward added a residual or not.
    ///
    /// Without an activation, backward needs none of them and nothing is kept.
    ///
    /// ```
    /// use wgpu_batch_norm::{Activation, ActivationSource, AdapterClass, BatchNormDescriptor, DeviceProfile, Plan, Shape};
    /// let descriptor = BatchNormDescriptor { channels: 8, activation: Activation::Relu, ..Default::default() };
    /// let plan = Plan::new(&descriptor, &Shape::new(&[4, 8, 16, 16])?, &DeviceProfile::webgpu(AdapterClass::Discrete))?;
    /// assert_eq!(plan.activation_cost(ActivationSource::Recompute, false).kept, 0);
    /// assert_eq!(plan.activation_cost(ActivationSource::Recompute, true).kept, plan.tensor_size());
    /// assert_eq!(plan.activation_cost(ActivationSource::Mask, true).kept, plan.tensor_size() / 32);
    /// # Ok::<(), wgpu_batch_norm::Error>(())
    /// ```
    #[must_use]
    pub fn activation_cost(&self, source: ActivationSource, residual: bool) -> ActivationCost {
        let (tensor, mask) = (self.tensor_size(), self.mask_size());
        match source {
            _ if self.descriptor.activation == Activation::Identity => ActivationCost::default(),
            ActivationSource::Recompute if residual => ActivationCost { kept: tensor, written: 0, read: tensor },
            ActivationSource::Recompute => ActivationCost::default(),
            ActivationSource::Output => ActivationCost { kept: tensor, written: 0, read: tensor },
            ActivationSource::Mask => ActivationCost { kept: mask, written: mask, read: mask },
        }
    }

    /// Bytes of gamma, beta and their gradients: `C·4` each.
    #[must_use]
    pub const fn vector_size(&self) -> u64 {
        self.problem.channels as u64 * 4
    }

    /// Bytes of running mean and running variance, each: `C·4`, or 4 an instance where segments have their own
    /// ([`SegmentRunning::Separate`]).
    #[must_use]
    pub const fn running_size(&self) -> u64 {
        self.recorded.tensor.segmentation.instances() * 4
    }

    /// Bytes of the saved statistics: 16, one [`ChannelStatistics`](crate::ChannelStatistics), an instance (without segments:
    /// a channel).
    #[must_use]
    pub const fn saved_size(&self) -> u64 {
        self.batch.tensor.segmentation.instances() * 16
    }

    /// Bytes of the moments of one part of a batch: 16, one [`ChannelMoments`](crate::ChannelMoments), an instance (without
    /// segments: a channel).
    #[must_use]
    pub const fn part_moments_size(&self) -> u64 {
        self.batch.tensor.segmentation.instances() * 16
    }

    /// Bytes of the gradient sums of one part of a batch: 8, one [`ChannelGradientSums`](crate::ChannelGradientSums), an
    /// instance (without segments: a channel).
    #[must_use]
    pub const fn gradient_sums_size(&self) -> u64 {
        self.batch.tensor.segmentation.instances() * 8
    }

    /// Bytes of scratch that serve every operation of this plan; never 0. Never more than the larger of 1 % of the tensor and 64 bytes
    /// an instance (72 where segments share gamma) plus 64 KiB, unless the tensor is worked on in windows.
    #[must_use]
    #[doc(alias = "scratch_size")]
    pub const fn workspace_size(&self) -> u64 {
        self.workspace.size
    }

    /// How an operation is carried out; `None` for an empty batch. In windows, with padding, batch renormalization, a residual, a
    /// mask, or an output that tells the activation's derivative it is always a [`Strategy::Split`], and so is a backward
    /// through frozen statistics that recomputes an activation where the device has no more bindings than WebGPU guarantees.
    #[must_use]
    pub fn strategy(&self, operation: Operation) -> Option<Strategy> {
        let laid = if operation == Operation::FrozenBackward { &self.recorded } else { &self.batch };
        match &laid.work {
            Work::Nothing => None,
            Work::Whole(geometries) => Some(geometries.choice(operation).strategy()),
            Work::Windows(windows) => Some(windows.strategy),
        }
    }

    /// How inference lays threads over the tensor; `None` for an empty batch.
    #[must_use]
    pub fn inference_family(&self) -> Option<Family> {
        match &self.recorded.work {
            Work::Nothing => None,
            Work::Whole(geometries) => Some(geometries.inference.family),
            Work::Windows(windows) => windows.windows.first().map(|window| window.map.family),
        }
    }

    /// How many windows the dispatches of training go over one after the other: 1, but for tensors beyond one storage binding or
    /// [`DeviceProfile::max_window_size`], and 0 for an empty batch. Where segments share running statistics, operations that read
    /// these may cut the tensor otherwise.
    #[must_use]
    pub fn window_count(&self) -> usize {
        match &self.batch.work {
            Work::Nothing => 0,
            Work::Whole(_) => 1,
            Work::Windows(windows) => windows.windows.len(),
        }
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn dimensions(&self) -> &[usize] {
        self.shape.dimensions()
    }

    pub(crate) const fn descriptor(&self) -> &BatchNormDescriptor {
        &self.descriptor
    }

    /// The activation's number in the shaders.
    pub(crate) const fn activation_code(&self) -> u32 {
        match self.descriptor.activation {
            Activation::Identity => 0,
            Activation::LeakyRelu { slope } if slope as f32 >= f32::MIN_POSITIVE => 2,
            Activation::Relu | Activation::LeakyRelu { .. } => 1,
            Activation::Silu => 3,
            Activation::Gelu => 4,
            Activation::GeluTanh => 5,
        }
    }

    pub(crate) const fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    /// Where sequence and step stand among positions.
    pub(crate) fn sequence_axes(&self, axes: SequenceAxes) -> Result<[PositionAxis; 2], Error> {
        self.shape.sequence_axes(self.descriptor.layout, axes)
    }

    pub(crate) const fn workspace(&self) -> &Workspace {
        &self.workspace
    }
}

impl Geometries {
    fn new(tensor: Tensor, profile: &DeviceProfile, strategies: Strategies) -> Result<Self, Error> {
        let any = |_| true;
        let split = |strategy| matches!(strategy, Strategy::Split { .. });
        let fallback = Error::StrategyNotServed { strategy: selection::fallback(tensor) };
        let choice = |operation, pinned: Option<Strategy>| match pinned {
            Some(strategy) => {
                Choice::new(strategy, operation, tensor, profile).ok_or(Error::StrategyNotServed { strategy })
            }
            None => selection::select(operation, tensor, profile, any).ok_or_else(|| fallback.clone()),
        };
        let split_choice = |operation, chosen: &Choice| match chosen {
            Choice::Split { .. } => Ok(*chosen),
            Choice::ChannelLoop(_) | Choice::Resident(..) => {
                selection::select(operation, tensor, profile, split).ok_or_else(|| fallback.clone())
            }
        };
        let family = strategies.inference.unwrap_or_else(|| selection::select_inference(tensor, profile));
        if !tensor.maps(family) {
            let strategy = Strategy::Split { reduction: family, elementwise: family };
            return Err(Error::StrategyNotServed { strategy });
        }
        let training = choice(Operation::Training, strategies.training)?;
        let backward = choice(Operation::Backward, strategies.backward)?;
        let geometries = Self {
            training,
            backward,
            training_split: split_choice(Operation::Training, &training)?,
            backward_split: split_choice(Operation::Backward, &backward)?,
            inference: Geometry::elementwise(tensor, profile, family),
            reduction: selection::select_reduction(tensor, profile),
            pinned: strategies,
        };
        for geometry in geometries.all() {
            geometry.workgroups(profile)?;
        }
        Ok(geometries)
    }

    fn choice(&self, operation: Operation) -> &Choice {
        match operation {
            Operation::Training => &self.training,
            Operation::Backward | Operation::FrozenBackward => &self.backward,
        }
    }

    /// The choice for kernels that bind more than those of one dispatch can.
    fn split_choice(&self, operation: Operation) -> Result<&Choice, Error> {
        let (pinned, choice) = match operation {
            Operation::Training => (self.pinned.training, &self.training_split),
            Operation::Backward | Operation::FrozenBackward => (self.pinned.backward, &self.backward_split),
        };
        match pinned {
            Some(strategy) if choice.strategy() != strategy => Err(Error::StrategyNotServed { strategy }),
            _ => Ok(choice),
        }
    }

    fn choices(&self) -> [&Choice; 4] {
        [&self.training, &self.backward, &self.training_split, &self.backward_split]
    }

    fn all(&self) -> impl Iterator<Item = &Geometry> {
        let chosen = self.choices().into_iter().flat_map(Choice::geometries);
        [&self.inference, &self.reduction].into_iter().chain(chosen)
    }

    /// Whether the workspace must hold merged partials.
    fn merge_apart(&self) -> bool {
        let apart = |choice: &Choice| matches!(choice, Choice::Split { merges_apart: true, .. });
        self.choices().into_iter().any(apart)
    }

    /// The slots that the workspace must hold.
    fn slots(&self) -> u64 {
        let of = |choice: &Choice| match choice {
            Choice::Split { reduction, .. } => reduction.slots,
            Choice::ChannelLoop(_) | Choice::Resident(..) => 0,
        };
        self.choices().into_iter().map(of).fold(self.reduction.slots, u64::max)
    }
}

/// One dispatch, ready to be bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub kernel: Kernel,
    /// What is bound of tensors; all of them if absent.
    pub region: Option<Region>,
    pub fixed: Fixed,
    pub workgroup_size: u32,
    pub workgroups: [u32; 3],
    pub params: Params,
    /// Writes dgamma and dbeta of instances, to be added up, in place of the caller's.
    pub per_instance: bool,
}

impl Dispatch {
    /// The role whose buffer stands in for a role of the kernel.
    pub(crate) const fn stand_in(&self, role: Role) -> Role {
        match role {
            Role::GammaGradient if self.per_instance => Role::InstanceGammaGradient,
            Role::BetaGradient if self.per_instance => Role::InstanceBetaGradient,
            _ => role,
        }
    }
}

fn check_limits(tensor: Tensor, profile: &DeviceProfile) -> Result<(), Error> {
    let (part, instances) = (tensor.part(), tensor.segmentation.instances());
    if !tensor.maps(Family::Rows) && !tensor.maps(Family::Columns) {
        return Err(Error::SharedWords { elements: part.elements(), inner: part.inner });
    }
    let needs = [
        ("max_storage_buffer_binding_size", instances * 32, profile.max_storage_buffer_binding_size),
        ("max_storage_buffers_per_shader_stage", 8, u64::from(profile.max_storage_buffers_per_shader_stage)),
        ("max_uniform_buffer_binding_size", Params::BINDING_SIZE, profile.max_uniform_buffer_binding_size),
        ("max_compute_invocations_per_workgroup", 1, u64::from(profile.max_compute_invocations_per_workgroup)),
        ("max_compute_workgroup_size_x", 1, u64::from(profile.max_compute_workgroup_size_x)),
        (
            "max_compute_workgroup_storage_size",
            u64::from(profile::WORKGROUP_BYTES_PER_INVOCATION),
            u64::from(profile.max_compute_workgroup_storage_size),
        ),
    ];
    for (limit, required, available) in needs {
        if required > available {
            return Err(Error::LimitExceeded { limit, required, available });
        }
    }
    let segments = tensor.segmentation.segments();
    let most = SEGMENTS_PER_POSITION * u64::from(profile.finalize_workgroup_size());
    if segments > most {
        return Err(Error::TooManySegments { segments, most });
    }
    Ok(())
}
