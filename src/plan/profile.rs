//! What the planner knows of a device: numbers, no handles.

use super::geometry::MAX_RUN_UNITS;
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
    /// Bytes of each tensor that one dispatch goes over at most, so that no dispatch runs into a desktop's watchdog; larger
    /// tensors are worked on in windows. A tensor that cannot be cut so fine (16-bit rows that share words, whose smallest window is
    /// four outer steps) is gone over in windows as small as can be, within the limits. Not a limit of wgpu's: see
    /// [`KernelsDescriptor`](crate::KernelsDescriptor).
    pub max_window_size: u64,
    /// Alignment of storage binding offsets in bytes.
    pub min_storage_buffer_offset_alignment: u32,
    /// Alignment of uniform binding offsets in bytes.
    pub min_uniform_buffer_offset_alignment: u32,
    /// Invocations that a software driver runs as one vector, each vector up to its end before the next, and with arrays of an invocation
    /// as cheap as its variables: 8 on Mesa's llvmpipe and lavapipe, 0 where that is not known. Not a limit of wgpu's.
    pub vector_width: u32,
}

impl DeviceProfile {
    /// 1 GiB: an integrated GPU with 20 GB/s of memory bandwidth reads three tensors of that size in a sixth of a second, where
    /// watchdogs wait for two.
    pub const DEFAULT_MAX_WINDOW_SIZE: u64 = 1 << 30;

    /// The limits that WebGPU guarantees, with a class; a software driver is one with vectors of 8.
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
            max_window_size: Self::DEFAULT_MAX_WINDOW_SIZE,
            min_storage_buffer_offset_alignment: 256,
            min_uniform_buffer_offset_alignment: 256,
            vector_width: if matches!(class, AdapterClass::Cpu) { 8 } else { 0 },
        }
    }

    /// The alignment that slices must keep: the device's, and never less than one 16-byte unit.
    #[must_use]
    pub fn slice_alignment(&self) -> u64 {
        u64::from(self.min_storage_buffer_offset_alignment.max(16))
    }

    pub(crate) fn tuning(&self) -> Tuning {
        match self.class {
            AdapterClass::Discrete => Tuning {
                workgroups: 2048,
                lanes: 32,
                least_blocks: 2,
                elementwise_blocks: [4, 4, 4],
                second_blocks: [4, 4, 4],
                least_whole_groups: 32,
                lone_position_units: 0,
                lone_quad_units: 0,
            },
            AdapterClass::Integrated => Tuning { workgroups: 512, ..Self::webgpu(AdapterClass::Discrete).tuning() },
            AdapterClass::Cpu => Tuning {
                workgroups: 16,
                lanes: 64,
                least_blocks: 4,
                elementwise_blocks: [16, 64, 64],
                second_blocks: [256, 256, 256],
                least_whole_groups: 4,
                lone_position_units: 512,
                lone_quad_units: MAX_RUN_UNITS,
            },
        }
    }

    /// Invocations of a workgroup that walks rows.
    ///
    /// 256 on GPUs. A software driver runs eight invocations as one vector, and each vector up to a barrier before the
    /// next: only a workgroup of one vector walks a row in order.
    pub(crate) fn rows_workgroup_size(&self) -> u64 {
        u64::from(self.allowed_workgroup_size(if self.is_cpu() { 8 } else { 256 }))
    }

    /// Invocations of a workgroup that walks columns, unless they take several lanes each.
    ///
    /// 256 on GPUs. On a software driver a vector covers 128 bytes of a super-row, so that a workgroup that covers more of
    /// it, kept in step, leaves fewer gaps in what it reads.
    pub(crate) fn columns_workgroup_size(&self, row_units: u64) -> u64 {
        let wanted = if self.is_cpu() { row_units.next_power_of_two().clamp(16, 64) as u32 } else { 256 };
        u64::from(self.allowed_workgroup_size(wanted))
    }

    /// Trips after which the invocations of a workgroup wait for each other; 0 if never. Not where one or two vectors cover a
    /// super-row, nor where caches hold the whole tensor, nor where so few trips are made that caches hold what lies beside them.
    pub(crate) const fn trips_in_step(&self, family: Family, workgroup_size: u32, blocks: u64, elements: u64) -> u32 {
        let columns = matches!(family, Family::Columns) && workgroup_size > 16;
        if self.is_cpu() && columns && elements > CACHED && blocks > FEW_TRIPS { 4 } else { 0 }
    }

    /// Invocations of a finalize workgroup: few, because its work is small.
    pub(crate) fn finalize_workgroup_size(&self) -> u32 {
        self.allowed_workgroup_size(if self.is_cpu() { 16 } else { 64 })
    }

    pub(crate) const fn is_cpu(&self) -> bool {
        matches!(self.class, AdapterClass::Cpu)
    }

    fn allowed_workgroup_size(&self, wanted: u32) -> u32 {
        let by_storage = self.max_compute_workgroup_storage_size / WORKGROUP_BYTES_PER_INVOCATION;
        let allowed = self.max_compute_invocations_per_workgroup.min(self.max_compute_workgroup_size_x).min(by_storage);
        // A power of two, so that lanes and positions tile it.
        1 << wanted.min(allowed.max(1)).ilog2()
    }

    /// Trips that one invocation may make in one walk over its extent.
    ///
    /// lavapipe ends an invocation's loops after 65,535 iterations in all, without an error. An invocation has at most two
    /// walks and some short merges, so a quarter for a walk leaves room for the rest. The same bound elsewhere keeps single
    /// dispatches short.
    pub(crate) const fn max_blocks(&self) -> u64 {
        16_384
    }
}

/// Elements of a tensor that the caches of a processor hold.
const CACHED: u64 = 1 << 19;

/// Trips of an invocation of which it does not pay to wait.
const FEW_TRIPS: u64 = 16;

/// Workgroup memory of the larger accumulator: four vectors of four `f32`.
pub(crate) const WORKGROUP_BYTES_PER_INVOCATION: u32 = 64;

/// How work is cut. Measured for software drivers, starting values for GPUs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Workgroups that fill the machine.
    pub workgroups: u64,
    /// Lanes side by side in the columns family: enough for coalesced loads.
    pub lanes: u64,
    /// Blocks (of four units) that an invocation should have before a channel is split further.
    pub least_blocks: u64,
    /// Blocks that an invocation of an elementwise kernel takes, in rows, columns and quads.
    pub elementwise_blocks: [u64; 3],
    /// The same where every workgroup merges slots first.
    pub second_blocks: [u64; 3],
    /// Workgroups that a strategy of one dispatch should have at least.
    pub least_whole_groups: u64,
    /// Channels of at most this many units are each left to one invocation, where neighbours need not share cache lines.
    pub lone_position_units: u64,
    /// Quads of at most this many units an invocation are left to one, or to a few that take rows in turn.
    pub lone_quad_units: u64,
}

impl Tuning {
    /// Elements of an instance of which few invocations take all, in rows of a channel or of four.
    pub(crate) const fn lone_elements(&self, family: Family) -> u64 {
        match family {
            // A quad has as many units as each of its channels has elements.
            Family::Quads => self.lone_quad_units,
            Family::Rows | Family::Columns => 4 * self.lone_position_units,
        }
    }
}
