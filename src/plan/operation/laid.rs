//! What all operations share: the dispatches over a tensor that is laid out, and those after them.

use std::borrow::Cow;

use super::options::{Fixed, Fused};
use crate::plan::geometry::{FinalizeGeometry, Geometry, narrow, outer_elements, saturated};
use crate::plan::kernel::{Access, Elementwise, Family, Kernel, Operation, Reduction, Walk};
use crate::plan::strategy::Choice;
use crate::plan::window::Window;
use crate::plan::{Dispatch, Geometries, Laid, Params, Plan, Work};
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
                Kernel::Resident(operation, fused.fusion, self.held_walk(geometry), *trips).bindings()
            }
        };
        if bindings.len() <= plan.profile.max_storage_buffers_per_shader_stage as usize {
            Ok(choice)
        } else {
            geometries.split_choice(operation)
        }
    }

    /// The windows that an operation through coefficients, which is always split, goes over; none for an empty batch.
    pub(super) fn windows(&self, operation: Operation) -> Result<Cow<'_, [Window]>, Error> {
        Ok(match &self.work {
            Work::Nothing => Cow::Borrowed(&[]),
            Work::Windows(windows) => Cow::Borrowed(&windows.windows),
            Work::Whole(geometries) => match geometries.split_choice(operation)? {
                Choice::Split { reduction, elementwise, .. } => {
                    Cow::Owned(vec![Window::whole(self.tensor, *reduction, *elementwise)])
                }
                Choice::ChannelLoop(_) | Choice::Resident(..) => Cow::Borrowed(&[]),
            },
        })
    }

    /// The windows of operations that reduce or map alone.
    pub(super) fn windows_apart(&self) -> Cow<'_, [Window]> {
        match &self.work {
            Work::Nothing => Cow::Borrowed(&[]),
            Work::Windows(windows) => Cow::Borrowed(&windows.windows),
            Work::Whole(geometries) => {
                Cow::Owned(vec![Window::whole(self.tensor, geometries.reduction, geometries.inference)])
            }
        }
    }

    /// Slots that a reduction of windows leaves for every instance.
    pub(super) fn slots_of(&self, windows: &[Window]) -> u64 {
        windows.iter().map(|window| window.slot_base + window.reduction.slots).max().unwrap_or(0)
    }

    pub(super) const fn in_windows(&self) -> bool {
        matches!(self.work, Work::Windows(_))
    }

    /// Records of valid elements: one a segment, and one for each of its cells if there are several.
    pub(in crate::plan) fn valid_records(&self) -> u64 {
        let cells = self.cells();
        self.segments() * if cells == 1 { 1 } else { 1 + cells }
    }

    /// An operation by the strategy that was chosen for it; `counts` is the flag of the dispatch that counts the batch.
    pub(super) fn reduce_and_map(
        &self,
        plan: &Plan,
        operation: Operation,
        Fused { fusion, fixed }: Fused,
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
                let records_base = narrow(match operation {
                    Operation::Training => plan.workspace.parameters_beside_statistics(),
                    _ if *merges_apart => partials + instances + 1,
                    Operation::Backward | Operation::FrozenBackward => partials,
                });
                let reduce = Kernel::Reduce(operation.reduction(fusion), walk(reduction));
                let apply = Kernel::MergeAndApply(operation, fusion, walk(elementwise));
                let first = Params {
                    flags: params.flags & (Params::HAS_GAMMA | Params::HAS_BETA) | Params::RECORDS_PARAMETERS | counts,
                    records_base,
                    ..self.params(plan)
                };
                let mut dispatches = vec![self.over_tensor(plan, reduce, fixed, reduction, first)?];
                let params = Params { records_base, ..params };
                let mut second = self.over_tensor(plan, apply, fixed, elementwise, params)?;
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
                    Choice::Resident(_, trips) => Kernel::Resident(operation, fusion, self.held_walk(geometry), *trips),
                    _ => Kernel::ChannelLoop(operation, fusion, walk(geometry)),
                };
                let params = Params { flags: params.flags | counts, ..params };
                let dispatch = self.over_tensor(plan, kernel, fixed, geometry, params)?;
                Ok(vec![Dispatch { per_instance, ..dispatch }])
            }
        }
    }

    pub(super) fn over_tensor(
        &self,
        plan: &Plan,
        kernel: Kernel,
        fixed: Fixed,
        geometry: &Geometry,
        mut params: Params,
    ) -> Result<Dispatch, Error> {
        geometry.describe(self.tensor, &plan.profile, &mut params);
        let workgroups = geometry.workgroups(&plan.profile)?;
        let workgroup_size = geometry.workgroup_size_of(kernel);
        Ok(Dispatch { kernel, region: None, fixed, workgroup_size, workgroups, params, per_instance: false })
    }

    /// Reduces windows, each to slots of its own. What `first` adds to the flags goes to those that find an instance first, and
    /// what `once` adds to one of all.
    pub(super) fn reduce_windows(
        &self,
        plan: &Plan,
        windows: &[Window],
        reduction: Reduction,
        fixed: Fixed,
        params: Params,
        [first, once]: [u32; 2],
    ) -> Result<Vec<Dispatch>, Error> {
        let skips_padding = params.flags & Params::HAS_VALID != 0;
        let slots = self.slots_of(windows);
        let reduce = |(index, window): (usize, &Window)| {
            let kernel = Kernel::Reduce(reduction, self.walk_of(plan, window, &window.reduction, skips_padding));
            let flags =
                params.flags | if window.slot_base == 0 { first } else { 0 } | if index == 0 { once } else { 0 };
            let params = Params { flags, ..params };
            let mut dispatch = self.over_window(plan, kernel, fixed, window, &window.reduction, params)?;
            dispatch.params.slots = narrow(slots);
            Ok(dispatch)
        };
        windows.iter().enumerate().map(reduce).collect()
    }

    /// Maps windows, the one that was reduced last first.
    pub(super) fn map_windows(
        &self,
        plan: &Plan,
        windows: &[Window],
        map: Elementwise,
        fixed: Fixed,
        params: Params,
    ) -> Result<Vec<Dispatch>, Error> {
        let skips_padding = params.flags & Params::HAS_VALID != 0;
        let apply = |window: &Window| {
            let kernel = Kernel::Apply(map, self.walk_of(plan, window, &window.map, skips_padding));
            self.over_window(plan, kernel, fixed, window, &window.map, params)
        };
        windows.iter().rev().map(apply).collect()
    }

    fn walk_of(&self, plan: &Plan, window: &Window, geometry: &Geometry, skips_padding: bool) -> Walk {
        window.walk(self.tensor, geometry, &plan.profile, skips_padding)
    }

    fn over_window(
        &self,
        plan: &Plan,
        kernel: Kernel,
        fixed: Fixed,
        window: &Window,
        geometry: &Geometry,
        mut params: Params,
    ) -> Result<Dispatch, Error> {
        geometry.describe(window.tensor, &plan.profile, &mut params);
        let region = window.region(self.tensor, &plan.profile);
        let part = window.tensor.part();
        params.elements = narrow(region.elements);
        params.units = narrow(region.elements.div_ceil(4));
        params.inner = narrow(part.inner);
        params.part_channels = part.channels;
        params.part_elements = narrow(part.elements());
        params.window_base = narrow(window.first_element - region.first_element);
        params.first_channel = narrow(window.first_instance);
        params.end_channel = narrow(window.first_instance + window.tensor.segmentation.instances());
        params.slot_base = narrow(window.slot_base);
        params.mask_unit = narrow(region.of_mask(&plan.profile).1 / 4);
        params.valid_unit = saturated(region.first_element / 4);
        if self.cells() > 1 {
            params.valid_base += narrow(self.segments() * (1 + window.cell.index));
        }
        Ok(Dispatch {
            kernel,
            region: self.in_windows().then_some(region),
            fixed,
            workgroup_size: geometry.workgroup_size_of(kernel),
            workgroups: geometry.workgroups(&plan.profile)?,
            params,
            per_instance: false,
        })
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
        Ok(Dispatch {
            kernel,
            region: None,
            fixed: Fixed::default(),
            workgroup_size,
            workgroups,
            params,
            per_instance: false,
        })
    }

    pub(super) fn walk(&self, geometry: &Geometry, skips_padding: bool) -> Walk {
        let access = match geometry.family {
            _ if !self.tensor.elements().is_multiple_of(4) => Access::Scalar,
            Family::Rows if !self.tensor.part().inner.is_multiple_of(4) => Access::Shared,
            Family::Rows => Access::Whole,
            Family::Columns => geometry.access_of_columns(skips_padding),
            Family::Quads => geometry.access_of_quads(skips_padding),
        };
        Walk { family: geometry.family, access, skips_padding }
    }

    /// Of a kernel that holds what it takes: trips.
    fn held_walk(&self, geometry: &Geometry) -> Walk {
        let walk = self.walk(geometry, false);
        let access = match walk.access {
            Access::Runs | Access::Spans => Access::Whole,
            access @ (Access::Whole | Access::Shared | Access::Scalar) => access,
        };
        Walk { access, ..walk }
    }

    /// What all kernels share.
    pub(super) fn params(&self, plan: &Plan) -> Params {
        let (segmentation, part) = (self.tensor.segmentation, self.tensor.part());
        let count = part.count();
        let inverse = if count == 0 { 0.0 } else { 1.0 / count as f64 };
        let records = plan.valid_records();
        Params {
            // Of windows these are set with the window.
            elements: saturated(self.tensor.elements()),
            units: saturated(self.tensor.elements().div_ceil(4)),
            channels: narrow(self.instances()),
            inner: saturated(part.inner),
            outer_elements: saturated(outer_elements(part)),
            part_channels: part.channels,
            part_elements: saturated(part.elements()),
            end_channel: narrow(self.instances()),
            count: saturated(count),
            steps: segmentation.steps,
            parameter_channels: segmentation.channels,
            segments: narrow(self.segments()),
            valid_base: narrow(plan.valid_base(self)),
            valid_bits: narrow(4 * records),
            position_bits: saturated(4 * records + self.tensor.elements().div_ceil(32)),
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
