//! One batch in several parts: over devices, processes or buffers.

use super::batch_norm::{BatchNorm, bind_forward, bind_gradients, bind_renormalization, bind_running};
use super::binding::{Bindings, Usage};
use super::buffers::{BackwardBuffers, ConcludeBuffers, PartBuffers, TrainingBuffers};
use super::step::{Step, TrainingStep};
use crate::Error;
use crate::plan::{Dispatch, Plan, Role, TrainingOptions};

/// # A batch in parts
///
/// One batch may lie in several buffers, on several devices, or on several machines. Each part has a plan of its own, and the
/// statistics and gradients are those of the whole batch, whatever parts it is cut into, empty ones included:
///
/// ```text
/// on each part          exchanged                              on each part
/// bind_part_moments  →  moments (C·16 bytes a part)         →  bind_training_from_parts
/// bind_part_gradients → gradient sums (C·8 bytes a part)    →  bind_backward_from_parts
/// ```
///
/// What is exchanged are the parts' records, [`ChannelMoments`](crate::ChannelMoments) and
/// [`ChannelGradientSums`](crate::ChannelGradientSums), one after the other in one slice, in the same order for every part: so
/// that all of them find the same bits. How it gets there is the program's business: a copy between buffers, a map and a write
/// between devices, an all-gather between processes. Counts may differ from part to part, and the records may as well come from
/// kernels of the program's own. With segments every part has all of them, and each is one over all parts.
///
/// ```no_run
/// # use wgpu_batch_norm::{BatchNorm, Error, PartBuffers, Plan, TrainingBuffers, wgpu};
/// # fn demo(bn: &BatchNorm, plans: &[Plan; 2], x: &[wgpu::Buffer; 2], y: &[wgpu::Buffer; 2], workspace: &wgpu::Buffer,
/// # moments: &[wgpu::Buffer; 2], all: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
/// // One batch norm over two buffers of one device: `all` has room for the moments of two parts.
/// let size = plans[0].part_moments_size();
/// for (part, plan) in plans.iter().enumerate() {
///     let buffers = PartBuffers::new(x[part].slice(..), moments[part].slice(..size), workspace.slice(..));
///     bn.bind_part_moments(plan, &buffers)?.record_into(encoder);
///     encoder.copy_buffer_to_buffer(&moments[part], 0, all, part as u64 * size, size);
/// }
/// for (part, plan) in plans.iter().enumerate() {
///     let buffers = TrainingBuffers::new(x[part].slice(..), y[part].slice(..), workspace.slice(..));
///     bn.bind_training_from_parts(plan, all.slice(..2 * size), &buffers)?.record_into(encoder);
/// }
/// # Ok(()) }
/// ```
///
/// A program's own kernels may take the place of any of these: a convolution that writes moments of what it writes, and another
/// that normalises what it reads. The guide has a
/// [section on that](crate::guide::training_loop#kernels-of-your-own-beside-it), and `examples/fused` in the repository does it.
///
/// Where parts share a device, let one of them update running statistics and the others record
/// [`without`](TrainingStep::record_without_running_update) that.
impl BatchNorm {
    /// Binds taking the moments of a part of a batch: count, mean and M2 of each channel, or of each instance.
    ///
    /// [`crate::reference::BatchNorm::part_moments`] is the specification. A part without elements gives records of zeros.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::TooManyForMoments`],
    /// [`Error::LimitExceeded`], [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_part_moments(&self, plan: &Plan, buffers: &PartBuffers<'_>) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        bindings.tensor(Role::Input, "input", Usage::Read, buffers.input)?;
        let size = plan.part_moments_size();
        bindings.optional(Role::PartMoments, "moments", Usage::Write, Some(buffers.moments), size)?;
        bindings.valid(buffers.valid)?;
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.part_moments(buffers.valid.is_some())?;
        let label = self.label("part_moments");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds merging the moments of several parts to those of one part that holds all their elements. `parts` are records of
    /// part after part, [`Plan::part_moments_size`] bytes each; `merged` is the size of one.
    ///
    /// Not needed before [`BatchNorm::bind_training_from_parts`], which merges by itself; for trees of parts, and to keep less for
    /// backward. [`crate::reference::BatchNorm::merge_moments`] is the specification.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], the errors for slices as in [`BatchNorm::bind_training`], [`Error::TooManyParts`],
    /// [`Error::LimitExceeded`], [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn bind_merge_moments(
        &self,
        plan: &Plan,
        parts: wgpu::BufferSlice<'_>,
        merged: wgpu::BufferSlice<'_>,
    ) -> Result<Step, Error> {
        let (roles, size) = ([Role::Moments, Role::PartMoments], plan.part_moments_size());
        self.bind_merge(plan, "merge_moments", roles, size, [parts, merged], Plan::merge_moments)
    }

    /// Binds what follows from the moments of all parts but the output: saved statistics, running statistics, health. For
    /// programs whose own kernels normalise:
    ///
    /// ```text
    /// y = f((((x − pivot) − offset)·inverse_deviation)·γ + β + z)
    /// ```
    ///
    /// with the fields of [`ChannelStatistics`](crate::ChannelStatistics), in this order of operations, which keeps the digits of
    /// a large mean. (This crate's own kernels subtract the mean rounded, and add what that took away: a rounding less.) With
    /// batch renormalization it is `γ·scale` for γ and `γ·shift + β` for β, see
    /// [`ChannelRenormalization`](crate::ChannelRenormalization).
    ///
    /// # Errors
    /// As [`BatchNorm::bind_training_from_parts`].
    pub fn bind_conclude(&self, plan: &Plan, buffers: &ConcludeBuffers<'_>) -> Result<TrainingStep, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let parts = bindings.parts(Role::Moments, "moments", buffers.moments, plan.part_moments_size())?;
        let mut options = TrainingOptions { saved: true, health: buffers.health.is_some(), ..Default::default() };
        bind_running(&mut bindings, &mut options, buffers.running)?;
        bindings.optional(Role::Statistics, "saved", Usage::Write, Some(buffers.saved), plan.saved_size())?;
        bindings.optional(Role::Health, "health", Usage::Write, buffers.health, plan.health_size())?;
        bind_renormalization(&mut bindings, plan, &mut options, buffers.renormalization)?;
        let updating = plan.conclude_moments(parts, options)?;
        let without_update = plan.conclude_moments(parts, TrainingOptions { running: false, ..options })?;
        let label = self.label("conclude");
        let [updating, without_update] = bindings.bind(&self.kernels, &label, [&updating, &without_update])?;
        Ok(TrainingStep { label, updating, without_update })
    }

    /// Binds training forward of one part of a batch by the statistics of all of them, `moments`: records of part after part,
    /// [`Plan::part_moments_size`] bytes each.
    ///
    /// As [`BatchNorm::bind_training`] of the whole batch, for the elements of this part; a part without elements updates the
    /// running statistics all the same. How many elements there are in all, only the device knows: without any, or with one and
    /// unless the convention's `one_sample` is [`PopulationVariance`](crate::OneSamplePolicy::PopulationVariance), running
    /// statistics are left as they are. [`crate::reference::BatchNorm::training_from_parts`] is the specification.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_training`] but for its policies, and [`Error::TooManyParts`].
    pub fn bind_training_from_parts(
        &self,
        plan: &Plan,
        moments: wgpu::BufferSlice<'_>,
        buffers: &TrainingBuffers<'_>,
    ) -> Result<TrainingStep, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let options = bind_forward(&mut bindings, plan, buffers)?;
        let parts = bindings.parts(Role::Moments, "moments", moments, plan.part_moments_size())?;
        bindings.workspace(buffers.workspace)?;
        let updating = plan.training_from_parts(parts, options)?;
        let without_update = plan.training_from_parts(parts, TrainingOptions { running: false, ..options })?;
        let label = self.label("training_from_parts");
        let [updating, without_update] = bindings.bind(&self.kernels, &label, [&updating, &without_update])?;
        Ok(TrainingStep { label, updating, without_update })
    }

    /// Binds the gradient sums of one part of a batch, [`Plan::gradient_sums_size`] bytes; and, of `buffers`, dγ and dβ of this
    /// part, which add up over parts as all gradients of a program do. dx and dz are left to
    /// [`BatchNorm::bind_backward_from_parts`], which takes the same buffers.
    ///
    /// [`crate::reference::BatchNorm::part_gradients`] is the specification. A part without elements gives zeros.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_backward`] but for its policies, and [`Error::MissingSavedStatistics`]; nothing need be asked for.
    pub fn bind_part_gradients(
        &self,
        plan: &Plan,
        sums: wgpu::BufferSlice<'_>,
        buffers: &BackwardBuffers<'_>,
    ) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let options = bind_gradients(&mut bindings, plan, buffers)?;
        bindings.optional(Role::GradientSums, "sums", Usage::Write, Some(sums), plan.gradient_sums_size())?;
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.part_gradients(options)?;
        let label = self.label("part_gradients");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds adding up the gradient sums of several parts to those of one part that holds all their elements. `parts` are records
    /// of part after part, [`Plan::gradient_sums_size`] bytes each; `merged` is the size of one.
    ///
    /// Not needed before [`BatchNorm::bind_backward_from_parts`], which adds up by itself; for trees of parts, and for programs whose
    /// own kernels find dx:
    ///
    /// ```text
    /// x̂ = ((x − pivot) − offset)·inverse_deviation        dx = γ·inverse_deviation·( h − Σh/count − x̂·(Σh·x̂)/count )
    /// ```
    ///
    /// with the fields of [`ChannelStatistics`](crate::ChannelStatistics) and the count of all parts; with batch renormalization
    /// `γ·scale` for γ, see [`ChannelRenormalization`](crate::ChannelRenormalization).
    /// [`crate::reference::BatchNorm::merge_gradient_sums`] is the specification.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_merge_moments`].
    pub fn bind_merge_gradient_sums(
        &self,
        plan: &Plan,
        parts: wgpu::BufferSlice<'_>,
        merged: wgpu::BufferSlice<'_>,
    ) -> Result<Step, Error> {
        let (roles, size) = ([Role::GradientSums, Role::MergedGradientSums], plan.gradient_sums_size());
        self.bind_merge(plan, "merge_gradient_sums", roles, size, [parts, merged], Plan::merge_gradient_sums)
    }

    /// Binds dx and dz of one part of a batch by the gradient sums of all of them, `sums`, and their counts in `moments`, which
    /// are forward's, merged or not. dγ and dβ of `buffers` are left alone: [`BatchNorm::bind_part_gradients`] gave them.
    ///
    /// [`crate::reference::BatchNorm::backward_from_parts`] is the specification. A part without elements records nothing.
    ///
    /// # Errors
    /// As [`BatchNorm::bind_backward`] but for its policies, [`Error::MissingSavedStatistics`], [`Error::TooManyParts`], and
    /// [`Error::NoGradientRequested`] without dx and dz.
    pub fn bind_backward_from_parts(
        &self,
        plan: &Plan,
        sums: wgpu::BufferSlice<'_>,
        moments: wgpu::BufferSlice<'_>,
        buffers: &BackwardBuffers<'_>,
    ) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let options = bind_gradients(&mut bindings, plan, buffers)?;
        let sums = bindings.parts(Role::GradientSums, "sums", sums, plan.gradient_sums_size())?;
        let moments = bindings.parts(Role::Moments, "moments", moments, plan.part_moments_size())?;
        bindings.workspace(buffers.workspace)?;
        let dispatches = plan.backward_from_parts(sums, moments, options)?;
        let label = self.label("backward_from_parts");
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }

    /// Binds the records of several parts and those of one, `size` bytes, and whatever `plan` needs for so many.
    fn bind_merge(
        &self,
        plan: &Plan,
        operation: &str,
        [from, to]: [Role; 2],
        size: u64,
        [parts, merged]: [wgpu::BufferSlice<'_>; 2],
        dispatches: fn(&Plan, u64) -> Result<Vec<Dispatch>, Error>,
    ) -> Result<Step, Error> {
        self.check(plan)?;
        let mut bindings = Bindings::new(plan);
        let parts = bindings.parts(from, "parts", parts, size)?;
        bindings.optional(to, "merged", Usage::Write, Some(merged), size)?;
        let dispatches = dispatches(plan, parts)?;
        let label = self.label(operation);
        let [dispatches] = bindings.bind(&self.kernels, &label, [&dispatches])?;
        Ok(Step { label, dispatches })
    }
}
