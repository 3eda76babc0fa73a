//! Checking the caller's slices and turning dispatches into bind groups.

use std::collections::HashMap;
use std::ops::Range;

use super::kernels::{Kernels, PLACEHOLDER_SIZE, Placeholders};
use super::scope::scoped;
use super::step::BoundDispatch;
use crate::plan::{Dispatch, Kernel, Params, Plan, Region, Role, Storage};
use crate::shader::{Constants, Variant, has_double_words};
use crate::{AdapterClass, ElementType, Error, trace};

/// Whether a slice is written by any dispatch of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Read,
    Write,
}

/// What the size of a slice must be.
#[derive(Clone, Copy, Debug)]
enum Size {
    Exactly(u64),
    AtLeast(u64),
}

/// The caller's slices for one step, by role.
pub(super) struct Bindings<'a> {
    plan: &'a Plan,
    slices: Vec<Named<'a>>,
    roles: Vec<(Role, Slice<'a>)>,
    /// The partials where nothing is prepared.
    partials_with_parameters: Option<Slice<'a>>,
}

struct Named<'a> {
    role: Option<Role>,
    name: &'static str,
    usage: Usage,
    slice: Slice<'a>,
}

/// A byte range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slice<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    size: u64,
}

impl Slice<'_> {
    fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset < other.offset + other.size && other.offset < self.offset + self.size
    }
}

impl<'a> Bindings<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Self { plan, slices: Vec::new(), roles: Vec::new(), partials_with_parameters: None }
    }

    /// A tensor of the plan's shape.
    pub(super) fn tensor(
        &mut self,
        role: Role,
        name: &'static str,
        usage: Usage,
        slice: wgpu::BufferSlice<'a>,
    ) -> Result<(), Error> {
        self.add(Some(role), name, usage, slice, Size::Exactly(self.plan.tensor_size()), None).map(drop)
    }

    /// A tensor that is written, maybe in the place of another: over exactly the same bytes.
    pub(super) fn tensor_maybe_over(
        &mut self,
        role: Role,
        name: &'static str,
        slice: wgpu::BufferSlice<'a>,
        over: Role,
    ) -> Result<(), Error> {
        let size = Size::Exactly(self.plan.tensor_size());
        self.add(Some(role), name, Usage::Write, slice, size, Some(over)).map(drop)
    }

    /// Whether two roles are the same bytes.
    pub(super) fn coincide(&self, a: Role, b: Role) -> bool {
        self.find(a).is_some_and(|slice| Some(slice) == self.find(b))
    }

    /// One value for each of the running statistics.
    pub(super) fn running(
        &mut self,
        role: Role,
        name: &'static str,
        usage: Usage,
        slice: wgpu::BufferSlice<'a>,
    ) -> Result<(), Error> {
        self.optional(role, name, usage, Some(slice), self.plan.running_size())
    }

    /// Which elements count, if it is not all.
    pub(super) fn valid(&mut self, slice: Option<wgpu::BufferSlice<'a>>) -> Result<(), Error> {
        self.optional(Role::Valid, "valid", Usage::Read, slice, self.plan.valid_size())
    }

    /// One value per channel.
    pub(super) fn vector(
        &mut self,
        role: Role,
        name: &'static str,
        usage: Usage,
        slice: Option<wgpu::BufferSlice<'a>>,
    ) -> Result<(), Error> {
        self.optional(role, name, usage, slice, self.plan.vector_size())
    }

    /// A slice of exactly `size` bytes, if there is one.
    pub(super) fn optional(
        &mut self,
        role: Role,
        name: &'static str,
        usage: Usage,
        slice: Option<wgpu::BufferSlice<'a>>,
        size: u64,
    ) -> Result<(), Error> {
        slice.map_or(Ok(()), |slice| self.add(Some(role), name, usage, slice, Size::Exactly(size), None).map(drop))
    }

    /// Records of one or more parts of a batch, one part after the other; how many parts there are.
    pub(super) fn parts(
        &mut self,
        role: Role,
        name: &'static str,
        slice: wgpu::BufferSlice<'a>,
        size_of_part: u64,
    ) -> Result<u64, Error> {
        let parts = slice.size().div_ceil(size_of_part);
        self.optional(role, name, Usage::Read, Some(slice), parts * size_of_part)?;
        Ok(parts)
    }

    /// The workspace and the roles within it. Statistics go there unless the caller has given a slice for them.
    pub(super) fn workspace(&mut self, slice: wgpu::BufferSlice<'a>) -> Result<(), Error> {
        let plan = self.plan;
        let whole = self.add(None, "workspace", Usage::Write, slice, Size::AtLeast(plan.workspace_size()), None)?;
        let part =
            |range: &Range<u64>| Slice { offset: whole.offset + range.start, size: range.end - range.start, ..whole };
        let layout = plan.workspace();
        self.roles.push((Role::Partials, part(&layout.partials)));
        self.partials_with_parameters = Some(part(&layout.partials_with_parameters()));
        self.roles.push((Role::Prepared, part(&layout.prepared)));
        if !layout.gamma_gradients.is_empty() {
            self.roles.push((Role::InstanceGammaGradient, part(&layout.gamma_gradients)));
            self.roles.push((Role::InstanceBetaGradient, part(&layout.beta_gradients)));
        }
        if self.find(Role::Statistics).is_none() {
            self.roles.push((Role::Statistics, part(&layout.statistics)));
        }
        Ok(())
    }

    fn add(
        &mut self,
        role: Option<Role>,
        name: &'static str,
        usage: Usage,
        slice: wgpu::BufferSlice<'a>,
        size: Size,
        over: Option<Role>,
    ) -> Result<Slice<'a>, Error> {
        let slice = Slice { buffer: slice.buffer(), offset: slice.offset(), size: slice.size() };
        match size {
            Size::Exactly(expected) if slice.size != expected => {
                return Err(Error::WrongSize { binding: name, expected, actual: slice.size });
            }
            Size::AtLeast(required) if slice.size < required => {
                return Err(Error::TooSmall { binding: name, required, actual: slice.size });
            }
            _ => {}
        }
        if !slice.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::MissingStorageUsage { binding: name });
        }
        let alignment = self.plan.profile().slice_alignment();
        if !slice.offset.is_multiple_of(alignment) {
            return Err(Error::MisalignedOffset { binding: name, offset: slice.offset, alignment });
        }
        let clash = |other: &&Named<'_>| {
            let in_place = over.is_some() && other.role == over && other.slice == slice;
            (usage == Usage::Write || other.usage == Usage::Write) && other.slice.overlaps(&slice) && !in_place
        };
        if let Some(other) = self.slices.iter().find(clash) {
            return Err(Error::OverlappingBuffers { first: other.name, second: name });
        }
        self.slices.push(Named { role, name, usage, slice });
        if let Some(role) = role {
            self.roles.push((role, slice));
        }
        Ok(slice)
    }

    /// What a dispatch binds of a role's slice.
    fn in_region(&self, role: Role, slice: Slice<'a>, region: Option<Region>) -> Slice<'a> {
        let Some(region) = region else { return slice };
        let range = if role.is_tensor() {
            let element = self.plan.descriptor().element;
            let start = region.first_element * element.size();
            start..start + element.tensor_size(region.elements)
        } else if role == Role::ActivationMask {
            region.of_mask(self.plan.profile()).0
        } else {
            return slice;
        };
        Slice { offset: slice.offset + range.start, size: range.end - range.start, ..slice }
    }

    fn find(&self, role: Role) -> Option<Slice<'a>> {
        self.roles.iter().find(|(other, _)| *other == role).map(|(_, slice)| *slice)
    }

    /// Bind groups and pipelines for lists of dispatches that share one uniform buffer. A dispatch that is the same in
    /// several lists is bound once.
    pub(super) fn bind<'d, const LISTS: usize>(
        &self,
        kernels: &Kernels,
        label: &str,
        lists: [&'d [Dispatch]; LISTS],
    ) -> Result<[Vec<BoundDispatch>; LISTS], Error> {
        let mut distinct: Vec<Dispatch> = Vec::new();
        // Windows are many and differ in what these tell.
        let mut alike: HashMap<(Option<u64>, &[u8]), Vec<usize>> = HashMap::new();
        let mut index_of = |dispatch: &'d Dispatch| {
            let key = (dispatch.region.map(|region| region.first_element), bytemuck::bytes_of(&dispatch.params));
            let found = alike.entry(key).or_default();
            found.iter().copied().find(|index| distinct[*index] == *dispatch).unwrap_or_else(|| {
                distinct.push(*dispatch);
                found.push(distinct.len() - 1);
                distinct.len() - 1
            })
        };
        let indices = lists.map(|list| list.iter().map(&mut index_of).collect::<Vec<_>>());
        let _span = trace::binding(label, self.plan, distinct.len());
        if distinct.is_empty() {
            return Ok(lists.map(|_| Vec::new()));
        }
        let placeholders = kernels.placeholders()?;
        let uniforms = Uniforms::new(kernels, label, &distinct)?;
        let bound = distinct
            .iter()
            .enumerate()
            .map(|(index, dispatch)| self.bind_one(kernels, label, &placeholders, &uniforms, index, dispatch))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(indices.map(|list| list.into_iter().map(|index| bound[index].clone()).collect()))
    }

    fn bind_one(
        &self,
        kernels: &Kernels,
        label: &str,
        placeholders: &Placeholders,
        uniforms: &Uniforms,
        index: usize,
        dispatch: &Dispatch,
    ) -> Result<BoundDispatch, Error> {
        let kernel = dispatch.kernel;
        let replaced = kernel.in_place().filter(|(read, written)| self.coincide(*read, *written)).map(|(read, _)| read);
        let bindings = kernel.bindings();
        let prepares = bindings.iter().any(|(role, _)| *role == Role::Prepared);
        let find = |role| match role {
            Role::Partials if !prepares => self.partials_with_parameters,
            _ => self.find(role),
        };
        let slices: Vec<(Role, bool, Slice<'_>)> = bindings
            .into_iter()
            .filter(|(role, _)| Some(*role) != replaced)
            .map(|(role, written)| {
                let placeholder = || {
                    let (buffer, offset) = if written {
                        (&placeholders.write, kernels.placeholder_offset(role))
                    } else {
                        (&placeholders.read, 0)
                    };
                    Slice { buffer, offset, size: PLACEHOLDER_SIZE }
                };
                let slice = find(dispatch.stand_in(role)).map(|slice| self.in_region(role, slice, dispatch.region));
                (role, written, slice.unwrap_or_else(placeholder))
            })
            .collect();
        let pooled = slices
            .iter()
            .any(|(_, read, a)| !read && slices.iter().any(|(_, written, b)| *written && a.buffer == b.buffer));
        let element = self.plan.descriptor().element;
        let storage = match element {
            ElementType::F16 | ElementType::Bf16 if kernel.walk().is_some() => Storage::Packed,
            _ => Storage::Single,
        };
        // What is held in registers is walked over without a loop, so that there is nothing to keep in step.
        let loops = !matches!(kernel, Kernel::Resident(..));
        let constants = Constants {
            workgroup_size: Some(dispatch.workgroup_size),
            activation: Some(self.plan.activation_code()),
            companion: Some(dispatch.fixed.companion as u32),
            input_gradient: Some(dispatch.fixed.input_gradient as u32),
            residual_gradient: Some(dispatch.fixed.residual_gradient as u32),
            brain_float: Some(element == ElementType::Bf16),
            keeps_in_step: Some(loops && dispatch.params.trips_in_step != 0),
            stores_in_turn: Some(self.plan.profile().class == AdapterClass::Cpu),
            span: Some(dispatch.params.lanes.div_ceil(dispatch.workgroup_size)),
        };
        let in_place = replaced.is_some();
        let double_words = kernels.double_words() && has_double_words(kernel, in_place);
        let variant = Variant { kernel, storage, in_place, pooled, double_words };
        let pipeline = kernels.pipeline(variant, constants)?;
        let storage = slices.iter().map(|(role, _, slice)| wgpu::BindGroupEntry {
            binding: role.binding(),
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: slice.buffer,
                offset: slice.offset,
                size: wgpu::BufferSize::new(slice.size),
            }),
        });
        let entries: Vec<_> = std::iter::once(uniforms.entry(index)).chain(storage).collect();
        let bind_group = scoped(kernels.device(), "a bind group", || {
            Ok(kernels.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(label),
                layout: &pipeline.layout,
                entries: &entries,
            }))
        })?;
        Ok(BoundDispatch { pipeline: pipeline.pipeline, bind_group, workgroups: dispatch.workgroups })
    }
}

/// The parameters of a step's dispatches, each at an offset that a uniform binding may have.
struct Uniforms {
    buffer: wgpu::Buffer,
    stride: u64,
}

impl Uniforms {
    fn new(kernels: &Kernels, label: &str, dispatches: &[Dispatch]) -> Result<Self, Error> {
        let alignment = u64::from(kernels.profile().min_uniform_buffer_offset_alignment.max(1));
        let stride = Params::BINDING_SIZE.next_multiple_of(alignment);
        scoped(kernels.device(), "a parameter buffer", || {
            let buffer = kernels.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: stride * dispatches.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: true,
            });
            for (offset, dispatch) in (0..).step_by(stride as usize).zip(dispatches) {
                let range = offset..offset + size_of::<Params>() as u64;
                // Scopes catch whatever else could be wrong with the buffer.
                let mut view = buffer.get_mapped_range_mut(range).map_err(|_| Error::DeviceLost)?;
                view.copy_from_slice(bytemuck::bytes_of(&dispatch.params));
            }
            buffer.unmap();
            Ok(Self { buffer, stride })
        })
    }

    fn entry(&self, index: usize) -> wgpu::BindGroupEntry<'_> {
        wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.buffer,
                offset: index as u64 * self.stride,
                size: wgpu::BufferSize::new(Params::BINDING_SIZE),
            }),
        }
    }
}
