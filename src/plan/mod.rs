//! The planner: from a descriptor, a shape and a device's limits to dispatches, or a typed error.
//!
//! Free of device calls; [`DeviceProfile`] carries what it needs to know. See `ARCHITECTURE.md` for the families.

mod geometry;
mod kernel;
mod operation;
mod params;
mod profile;
mod selection;
mod strategy;
mod workspace;

#[cfg(test)]
mod tests;

pub use kernel::{Access, Elementwise, Family, Fusion, Kernel, Normalizer, Operation, Reduction, Role, Storage, Trips};
pub(crate) use operation::{
    BackwardOptions, CompanionUse, Derivative, FoldOptions, GradientMode, InferenceOptions, TrainingOptions,
};
pub(crate) use params::Params;
pub use profile::{AdapterClass, DeviceProfile};
pub use strategy::{Strategies, Strategy};
pub(crate) use workspace::Workspace;

use crate::{Activation, ActivationCost, ActivationSource, BatchNormDescriptor, ElementType, Error, Problem, Shape};
use geometry::Geometry;
use strategy::Choice;

/// What the kernels' 32-bit element indices serve, with room for the last, overhanging loop trip.
const MAX_ELEMENTS: u64 = 1 << 31;

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
    problem: Problem,
    /// Absent for an empty batch.
    geometries: Option<Geometries>,
    workspace: Workspace,
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
    /// The descriptor's, [`Error::ShapeTooLarge`], [`Error::ChannelMismatch`], and [`Error::LimitExceeded`] when the
    /// tensor does not fit one storage binding or a limit is below what WebGPU guarantees.
    pub fn new(descriptor: &BatchNormDescriptor, shape: &Shape, profile: &DeviceProfile) -> Result<Self, Error> {
        Self::with_strategies(descriptor, shape, profile, Strategies::default())
    }

    /// As [`Plan::new`], with strategies of the caller's choice: to measure them, or where one is known to be better than
    /// what the planner takes. Results are the same up to the order of additions.
    ///
    /// A pin is for the whole operation: a backward without input gradient, and the statistics that a backward takes again
    /// because none were saved, are carried out in one way only, and an empty batch in none.
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
        descriptor.validate()?;
        let problem = descriptor.problem(shape)?;
        check_limits(problem, descriptor.element, profile)?;
        let geometries = if problem.count() > 0 {
            Some(Geometries::new((problem, descriptor.element), profile, strategies)?)
        } else {
            None
        };
        let slots = geometries.as_ref().map_or(0, Geometries::slots);
        let merges_apart = geometries.as_ref().is_some_and(Geometries::merge_apart);
        let workspace = Workspace::new(problem.channels, slots, merges_apart, profile)?;
        Ok(Self { descriptor: descriptor.clone(), profile: *profile, problem, geometries, workspace })
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
        let Some(geometries) = &plan.geometries else { return Ok(Vec::new()) };
        let chosen = geometries.choice(operation).strategy();
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

    /// Bytes of x, y, the residual and their gradients: `M·C` elements, rounded up to a multiple of 4 bytes.
    #[must_use]
    pub const fn tensor_size(&self) -> u64 {
        self.descriptor.element.tensor_size(self.problem.elements())
    }

    /// Bytes of an activation mask: one bit an element, in whole words of 32.
    #[must_use]
    pub const fn mask_size(&self) -> u64 {
        self.problem.elements().div_ceil(32) * 4
    }

    /// Bytes of moments of many batches: `C·16`, one [`ChannelMoments`](crate::ChannelMoments) a channel.
    #[must_use]
    pub const fn moments_size(&self) -> u64 {
        self.problem.channels as u64 * 16
    }

    /// Bytes of a health report: `C·4`, one [`ChannelHealth`](crate::ChannelHealth) a channel.
    #[must_use]
    pub const fn health_size(&self) -> u64 {
        self.vector_size()
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

    /// Bytes of gamma, beta, their gradients, running mean and running variance: `C·4` each.
    #[must_use]
    pub const fn vector_size(&self) -> u64 {
        self.problem.channels as u64 * 4
    }

    /// Bytes of the saved statistics: `C·16`, one [`ChannelStatistics`](crate::ChannelStatistics) a channel.
    #[must_use]
    pub const fn saved_size(&self) -> u64 {
        self.problem.channels as u64 * 16
    }

    /// Bytes of scratch that serve every operation of this plan; never 0.
    #[must_use]
    #[doc(alias = "scratch_size")]
    pub const fn workspace_size(&self) -> u64 {
        self.workspace.size
    }

    /// How an operation is carried out; `None` for an empty batch. With a residual, a mask, or an output that tells the
    /// activation's derivative it is always a [`Strategy::Split`], and so is a backward through frozen statistics that
    /// recomputes an activation where the device has no more bindings than WebGPU guarantees.
    #[must_use]
    pub fn strategy(&self, operation: Operation) -> Option<Strategy> {
        self.geometries.as_ref().map(|geometries| geometries.choice(operation).strategy())
    }

    /// How inference lays threads over the tensor; `None` for an empty batch.
    #[must_use]
    pub fn inference_family(&self) -> Option<Family> {
        self.geometries.as_ref().map(|geometries| geometries.inference.family)
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

    pub(crate) const fn workspace(&self) -> &Workspace {
        &self.workspace
    }
}

impl Geometries {
    fn new(
        (problem, element): (Problem, ElementType),
        profile: &DeviceProfile,
        strategies: Strategies,
    ) -> Result<Self, Error> {
        let any = |_| true;
        let split = |strategy| matches!(strategy, Strategy::Split { .. });
        let fallback = Error::StrategyNotServed { strategy: selection::FALLBACK };
        let choice = |operation, pinned: Option<Strategy>| match pinned {
            Some(strategy) => Choice::new(strategy, operation, (problem, element), profile)
                .ok_or(Error::StrategyNotServed { strategy }),
            None => selection::select(operation, (problem, element), profile, any).ok_or_else(|| fallback.clone()),
        };
        let split_choice = |operation, chosen: &Choice| match chosen {
            Choice::Split { .. } => Ok(*chosen),
            Choice::ChannelLoop(_) | Choice::Resident(..) => {
                selection::select(operation, (problem, element), profile, split).ok_or_else(|| fallback.clone())
            }
        };
        let family = strategies.inference.unwrap_or_else(|| selection::select_inference(problem, element));
        if !strategy::maps(family, problem, element) {
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
            inference: Geometry::elementwise(problem, element, profile, family),
            reduction: selection::select_reduction(problem, element, profile),
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
    pub companion: CompanionUse,
    pub workgroup_size: u32,
    pub workgroups: [u32; 3],
    pub params: Params,
}

fn check_limits(problem: Problem, element: ElementType, profile: &DeviceProfile) -> Result<(), Error> {
    let needs = [
        (
            "max_storage_buffer_binding_size",
            element.tensor_size(problem.elements()),
            profile.max_storage_buffer_binding_size.min(MAX_ELEMENTS * element.size()),
        ),
        ("max_storage_buffer_binding_size", u64::from(problem.channels) * 16, profile.max_storage_buffer_binding_size),
        ("max_storage_buffers_per_shader_stage", 8, u64::from(profile.max_storage_buffers_per_shader_stage)),
        ("max_uniform_buffer_binding_size", size_of::<Params>() as u64, profile.max_uniform_buffer_binding_size),
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
    Ok(())
}
