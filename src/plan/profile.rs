//! What the planner knows of a device: numbers, no handles.

use super::kernel::Family;

/// The kind of machine behind an adapter; it decides how much parallel work to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterClass {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory, or a virtual or unknown one.
    Integrated,
    /// A software driver.
    Cpu,
}

/// The limits and the class that a plan is made for, in the names of `wgpu::Limits`.
///
/// [`Plan::new`](crate::Plan::new) is a pure function of a descriptor, a shape and this; no device is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceProfile {
    /// The kind of machine.
    pub class: AdapterClass,
    /// Bytes of one storage binding.
    pub max_storage_buffer_binding_size: u64,
    /// Storage buffers of one dispatch.
    pub max_storage_buffers_per_shader_stage: u32,
    /// Bytes of one uniform binding.
    pub max_uniform_buffer_binding_size: u64,
    /// Invocations of one workgroup.
    pub max_compute_invocations_per_workgroup: u32,
    /// Invocations of one workgroup along x.
    pub max_compute_workgroup_size_x: u32,
    /// Bytes of workgroup memory.
    pub max_compute_workgroup_storage_size: u32,
    /// Workgroups along each dimension of a dispatch.
    pub max_compute_workgroups_per_dimension: u32,
    /// Alignment of storage binding offsets in bytes.
    pub min_storage_buffer_offset_alignment: u32,
    /// Alignment of uniform binding offsets in bytes.
    pub min_uniform_buffer_offset_alignment: u32,
}

impl DeviceProfile {
    /// The limits that WebGPU guarantees, with a class.
    #[must_use]
    pub const fn webgpu(class: AdapterClass) -> Self {
        Self {
            class,
            max_storage_buffer_binding_size: 128 << 20,
            max_storage_buffers_per_shader_stage: 8,
            max_uniform_buffer_binding_size: 64 << 10,
            max_compute_invocations_per_workgroup: 256,
            max_compute_workgroup_size_x: 256,
            max_compute_workgroup_storage_size: 16 << 10,
            max_compute_workgroups_per_dimension: 65535,
            min_storage_buffer_offset_alignment: 256,
            min_uniform_buffer_offset_alignment: 256,
        }
    }

    /// The alignment that slices must keep: the device's, and never less than one 16-byte unit.
    #[must_use]
    pub fn slice_alignment(&self) -> u64 {
        u64::from(self.min_storage_buffer_offset_alignment.max(16))
    }

    pub(crate) const fn tuning(&self) -> Tuning {
        match self.class {
            AdapterClass::Discrete => Tuning { workgroups: 2048, lanes: 32, least_blocks: 2, elementwise_blocks: 4 },
            AdapterClass::Integrated => Tuning { workgroups: 512, lanes: 32, least_blocks: 2, elementwise_blocks: 4 },
            AdapterClass::Cpu => Tuning { workgroups: 16, lanes: 16, least_blocks: 4, elementwise_blocks: 16 },
        }
    }

    /// Invocations of a workgroup.
    ///
    /// 256 on GPUs. A software driver runs eight invocations as one vector, and each vector through all its loops before
    /// the next: only a workgroup of one vector walks memory in order. In columns two vectors side by side are worth it,
    /// since a row is left again after one step.
    pub(crate) fn workgroup_size(&self, family: Family) -> u32 {
        let wanted = match (self.class, family) {
            (AdapterClass::Cpu, Family::Rows) => 8,
            (AdapterClass::Cpu, Family::Columns) => 16,
            _ => 256,
        };
        self.allowed_workgroup_size(wanted)
    }

    /// Invocations of a finalize workgroup: few, because its work is small.
    pub(crate) fn finalize_workgroup_size(&self) -> u32 {
        self.allowed_workgroup_size(if matches!(self.class, AdapterClass::Cpu) { 16 } else { 64 })
    }

    fn allowed_workgroup_size(&self, wanted: u32) -> u32 {
        let by_storage = self.max_compute_workgroup_storage_size / WORKGROUP_BYTES_PER_INVOCATION;
        let allowed = self.max_compute_invocations_per_workgroup.min(self.max_compute_workgroup_size_x).min(by_storage);
        // A power of two, so that lanes and positions tile it.
        1 << wanted.min(allowed.max(1)).ilog2()
    }

    /// Loop trips that one invocation may make in one loop.
    ///
    /// lavapipe ends an invocation's loops after 65,535 iterations in all, without an error. An invocation has one main
    /// loop, two short merge loops and a segment loop, so a quarter for the main loop leaves room for the rest. The same
    /// bound elsewhere keeps single dispatches short.
    pub(crate) const fn max_blocks(&self) -> u64 {
        16_384
    }
}

/// Workgroup memory of the larger accumulator: four vectors of four `f32`.
pub(crate) const WORKGROUP_BYTES_PER_INVOCATION: u32 = 64;

/// Knobs of the strategy choice. Starting values; benchmarks decide them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Workgroups that fill the machine.
    pub workgroups: u64,
    /// Lanes side by side in the columns family: enough for coalesced loads.
    pub lanes: u64,
    /// Blocks (of four units) that an invocation should have before a channel is split further.
    pub least_blocks: u64,
    /// Blocks that an invocation of an elementwise kernel takes.
    pub elementwise_blocks: u64,
}
