//! What all operations share: the dispatches over a tensor that is laid out, and those after them.

use super::options::{CompanionUse, Fused};
use crate::plan::geometry::{FinalizeGeometry, Geometry, narrow, outer_elements};
use crate::plan::kernel::{Access, Family, Kernel, Operation, Reduction, Walk};
use crate::plan::strategy::Choice;
use crate::plan::{Dispatch, Geometries, Laid, Params, Plan};
use crate::{Activation, Error};

impl Laid {
    pub(in crate::plan) const fn count(&self) -> u64 {
        self.tensor.segmentation.count()
    }

    pub(in crate::plan) const fn instances(&self) -> u64 {
        self.tensor.segmentation.instances()
    }

    pub(in crate::plan) const fn segments(&self) -> u64 {
        self.tensor.segmentation.segments()
    }

    /// The strategy for an operation, which has to have bindings for what is fused into it.
    pub(super) fn choice<'a>(
        &self,
        plan: &Plan,
        operation: Operation,
        fused: Fused,
        geometries: &'a Geometries,
    ) -> Result<&'a Choice, Error> {
        let choice = geometries.choice(operation);
        let bindings = match choice {
            Choice::Split { .. } => return Ok(choice),
            _ if fused.fusion.binds_more() => return geometries.split_choice(operation),
            Choice::ChannelLoop(geometry) => {
                Kernel::ChannelLoop(operation, fused.fusion, self.walk(geometry, false)).bindings()
            }
            Choice::Resident(geometry, trips) => {
                Kernel::Resident(operation, fused.fusion, self.walk(geometry, false), *trips).bindings()
            }
        };
        if bindings.len() <= plan.profile.max_storage_buffers_per_shader_stage as usize {
            Ok(choice)
        } else {
            geometries.split_choice(operation)
        }
    }

    /// How an operation through coefficients, which is always split, reduces and maps; `None` for an empty batch.
    pub(super) fn prepared_geometries(&self, operation: Operation) -> Result<Option<(&Geometry, &Geometry)>, Error> {
        let Some(geometries) = &self.geometries else { return Ok(None) };
        Ok(match geometries.split_choice(operation)? {
            Choice::Split { reduction, elementwise, .. } => Some((reduction, elementwise)),
            Choice::ChannelLoop(_) | Choice::Resident(..) => None,
        })
    }

    /// An operation by the strategy that was chosen for it; `counts` is the flag of the dispatch that counts the batch.
    pub(super) fn reduce_and_map(
        &self,
        plan: &Plan,
        operation: Operation,
        Fused { fusion, companion }: Fused,
        choice: &Choice,
        params: Params,
        counts: u32,
    ) -> Result<Vec<Dispatch>, Error> {
        let walk = |geometry| self.walk(geometry, false);
        // Gradients of parameters that segments share are added up afterwards.
        let per_instance = self.segments() > 1 && operation != Operation::Training;
        match choice {
            Choice::Split { reduction, elementwise, merges_apart } => {
                let instances = self.instances();
                let partials = reduction.slots * instances + 1;
                let records_base = narrow(if *merges_apart { partials + instances + 1 } else { partials });
                let reduce = Kernel::Reduce(operation.reduction(fusion), walk(reduction));
                let apply = Kernel::MergeAndApply(operation, fusion, walk(elementwise));
                let first = Params {
                    flags: params.flags & (Params::HAS_GAMMA | Params::HAS_BETA) | Params::RECORDS_PARAMETERS | counts,
                    records_base,
                    ..self.params(plan)
                };
                let mut dispatches = vec![self.over_tensor(plan, reduce, companion, reduction, first)?];
                let params = Params { records_base, ..params };
                let mut second = self.over_tensor(plan, apply, companion, elementwise, params)?;
                second.per_instance = per_instance;
                if *merges_apart {
                    let merge = match operation.reduction(fusion) {
                        Reduction::Statistics => Reduction::Statistics,
                        // Sums are sums, whatever was added up.
                        Reduction::GradientSums(..) => Operation::Backward.reduction(crate::plan::Fusion::None),
                    };
                    let merge = Kernel::MergePartials(merge);
                    dispatches.push(self.finalize(plan, merge, reduction.slots, self.params(plan))?);
                    elementwise.describe_merge(1, &plan.profile, &mut second.params);
                    second.params.partials_base = narrow(partials);
                } else {
                    elementwise.describe_merge(reduction.slots, &plan.profile, &mut second.params);
                }
                dispatches.push(second);
                Ok(dispatches)
            }
            Choice::ChannelLoop(geometry) | Choice::Resident(geometry, _) => {
                let kernel = match choice {
                    Choice::Resident(_, trips) => Kernel::Resident(operation, fusion, walk(geometry), *trips),
                    _ => Kernel::ChannelLoop(operation, fusion, walk(geometry)),
                };
                let params = Params { flags: params.flags | counts, ..params };
                let dispatch = self.over_tensor(plan, kernel, companion, geometry, params)?;
                Ok(vec![Dispatch { per_instance, ..dispatch }])
            }
        }
    }

    pub(super) fn over_tensor(
        &self,
        plan: &Plan,
        kernel: Kernel,
        companion: CompanionUse,
        geometry: &Geometry,
        mut params: Params,
    ) -> Result<Dispatch, Error> {
        geometry.describe(self.tensor, &plan.profile, &mut params);
        let workgroups = geometry.workgroups(&plan.profile)?;
        let workgroup_size = geometry.workgroup_size;
        Ok(Dispatch { kernel, companion, workgroup_size, workgroups, params, per_instance: false })
    }

    /// A dispatch over `params.channels` channels, with the merge of slots, if there are any.
    pub(super) fn finalize(
        &self,
        plan: &Plan,
        kernel: Kernel,
        slots: u64,
        mut params: Params,
    ) -> Result<Dispatch, Error> {
        let geometry = FinalizeGeometry::new(u64::from(params.channels), slots, &plan.profile);
        geometry.describe(&mut params, slots);
        let workgroups = geometry.workgroups(&plan.profile)?;
        let workgroup_size = geometry.workgroup_size;
        Ok(Dispatch { kernel, companion: CompanionUse::None, workgroup_size, workgroups, params, per_instance: false })
    }

    pub(super) fn walk(&self, geometry: &Geometry, skips_padding: bool) -> Walk {
        let access = match geometry.family {
            _ if !self.tensor.elements().is_multiple_of(4) => Access::Scalar,
            Family::Rows if !self.tensor.part().inner.is_multiple_of(4) => Access::Shared,
            Family::Rows | Family::Columns => Access::Whole,
        };
        Walk { family: geometry.family, access, skips_padding }
    }

    /// What all kernels share.
    pub(super) fn params(&self, plan: &Plan) -> Params {
        let (segmentation, part) = (self.tensor.segmentation, self.tensor.part());
        let count = part.count();
        let inverse = if count == 0 { 0.0 } else { 1.0 / count as f64 };
        let records = plan.valid_records();
        Params {
            elements: narrow(self.tensor.elements()),
            units: narrow(self.tensor.elements().div_ceil(4)),
            channels: narrow(self.instances()),
            inner: narrow(part.inner.min(u64::from(u32::MAX))),
            outer_elements: narrow(outer_elements(part).min(u64::from(u32::MAX))),
            part_channels: part.channels,
            part_elements: narrow(part.elements()),
            steps: segmentation.steps,
            parameter_channels: segmentation.channels,
            segments: narrow(self.segments()),
            // The records of running statistics, if they are others, come after those of training.
            valid_base: narrow(if *self == plan.batch { 0 } else { records - 1 }),
            valid_bits: narrow(4 * records),
            position_bits: narrow(4 * records + self.tensor.elements().div_ceil(32)),
            epsilon: plan.descriptor.convention.epsilon as f32,
            slope: match plan.descriptor.activation {
                Activation::LeakyRelu { slope } => slope as f32,
                _ => 0.0,
            },
            inverse_count: inverse as f32,
            inverse_count_residual: (inverse - f64::from(inverse as f32)) as f32,
            ..Params::default()
        }
    }
}
