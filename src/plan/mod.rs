//! The planner: from a descriptor, a shape and a device's limits to dispatches, or a typed error.
//!
//! Free of device calls; [`DeviceProfile`] carries what it needs to know. See `ARCHITECTURE.md` for the families.

mod geometry;
mod kernel;
mod operation;
mod params;
mod profile;
mod workspace;

#[cfg(test)]
mod tests;

pub use kernel::{Access, Elementwise, Family, Kernel, Normalizer, Reduction, Role};
pub(crate) use operation::{BackwardOptions, GradientMode, TrainingOptions};
pub(crate) use params::Params;
pub use profile::{AdapterClass, DeviceProfile};
pub(crate) use workspace::Workspace;

use crate::{BatchNormDescriptor, Error, Problem, Shape};
use geometry::Geometry;

/// What the kernels' 32-bit element indices serve, with room for the last, overhanging loop trip.
const MAX_TENSOR_BYTES: u64 = 4 << 31;

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
    reduction: Geometry,
    elementwise: Geometry,
    access: Access,
}

impl Plan {
    /// Plans `shape` for a device with `profile`; [`BatchNorm::plan`](crate::BatchNorm::plan) does it for its device.
    ///
    /// # Errors
    /// The descriptor's, [`Error::ShapeTooLarge`], [`Error::ChannelMismatch`], and [`Error::LimitExceeded`] when the
    /// tensor does not fit one storage binding or a limit is below what WebGPU guarantees.
    pub fn new(descriptor: &BatchNormDescriptor, shape: &Shape, profile: &DeviceProfile) -> Result<Self, Error> {
        descriptor.validate()?;
        let problem = descriptor.problem(shape)?;
        check_limits(problem, profile)?;
        let geometries = (problem.count() > 0).then(|| Geometries {
            reduction: Geometry::reduction(problem, profile),
            elementwise: Geometry::elementwise(problem, profile),
            access: if problem.elements().is_multiple_of(4) { Access::Vector } else { Access::Scalar },
        });
        if let Some(geometries) = &geometries {
            geometries.reduction.workgroups(profile)?;
            geometries.elementwise.workgroups(profile)?;
        }
        let slots = geometries.map_or(0, |geometries| geometries.reduction.slots);
        let workspace = Workspace::new(problem.channels, slots, profile)?;
        Ok(Self { descriptor: descriptor.clone(), profile: *profile, problem, geometries, workspace })
    }

    /// The shape as `outer × channels × inner`.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// Bytes of x, y and their gradients: `M·C·4`.
    #[must_use]
    pub const fn tensor_size(&self) -> u64 {
        self.problem.elements() * 4
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

    /// How the reductions of this plan lay threads over the tensor; `None` for an empty batch.
    #[must_use]
    pub fn reduction_family(&self) -> Option<Family> {
        self.geometries.map(|geometries| geometries.reduction.family)
    }

    /// How the elementwise kernels of this plan lay threads over the tensor; `None` for an empty batch.
    #[must_use]
    pub fn elementwise_family(&self) -> Option<Family> {
        self.geometries.map(|geometries| geometries.elementwise.family)
    }

    pub(crate) const fn descriptor(&self) -> &BatchNormDescriptor {
        &self.descriptor
    }

    pub(crate) const fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    pub(crate) const fn workspace(&self) -> &Workspace {
        &self.workspace
    }
}

/// One dispatch, ready to be bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub kernel: Kernel,
    pub workgroup_size: u32,
    pub workgroups: [u32; 3],
    pub params: Params,
}

fn check_limits(problem: Problem, profile: &DeviceProfile) -> Result<(), Error> {
    let needs = [
        (
            "max_storage_buffer_binding_size",
            problem.elements().saturating_mul(4),
            profile.max_storage_buffer_binding_size.min(MAX_TENSOR_BYTES),
        ),
        ("max_storage_buffer_binding_size", u64::from(problem.channels) * 16, profile.max_storage_buffer_binding_size),
        ("max_storage_buffers_per_shader_stage", 6, u64::from(profile.max_storage_buffers_per_shader_stage)),
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
