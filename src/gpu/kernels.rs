//! Pipelines of one device, compiled when first needed and shared.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::module;
use super::scope::scoped;
use crate::plan::{AdapterClass, DeviceProfile, Params, Role};
use crate::shader::{Constants, Variant};
use crate::{Error, trace};

/// What a device may be asked for on behalf of this crate; nothing needs it. 64-bit integers make kernels faster on llvmpipe, see
/// [`KernelsDescriptor::double_words`].
///
/// ```no_run
/// # async fn open(adapter: wgpu::Adapter) -> Result<(), wgpu::RequestDeviceError> {
/// let (device, queue) = adapter
///     .request_device(&wgpu::DeviceDescriptor {
///         required_features: adapter.features() & wgpu_batch_norm::OPTIONAL_FEATURES,
///         ..Default::default()
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
pub const OPTIONAL_FEATURES: wgpu::Features = wgpu::Features::SHADER_INT64;

/// The compiled kernels of one device.
///
/// Clones share everything. A program with many batch norms makes one and gives it to each
/// ([`BatchNorm::with_kernels`](crate::BatchNorm::with_kernels)), so that every pipeline is compiled once.
#[derive(Clone)]
pub struct Kernels {
    shared: Arc<Shared>,
    profile: DeviceProfile,
}

struct Shared {
    device: wgpu::Device,
    checks: ShaderChecks,
    cache: Option<wgpu::PipelineCache>,
    double_words: bool,
    store: Mutex<Store>,
}

/// How kernels are compiled and planned for. The default suits every device.
#[derive(Clone, Debug, Default)]
pub struct KernelsDescriptor {
    /// Plans for another class of machine than the adapter reports. Results stay right on any device, only how the work
    /// is cut changes: for adapters that report themselves wrongly, and for testing one machine's plans on another.
    /// Default: what the adapter reports.
    pub class: Option<AdapterClass>,
    /// The checks that wgpu compiles into the kernels. Default: [`ShaderChecks::Trusted`].
    pub checks: ShaderChecks,
    /// Bytes of each tensor that one dispatch goes over at most; larger tensors are worked on in windows, as are those beyond a
    /// binding. Less keeps single dispatches shorter, for desktops that reset a GPU after two seconds. Never less than 1 KiB.
    /// Default: [`DeviceProfile::DEFAULT_MAX_WINDOW_SIZE`].
    pub max_window_size: Option<u64>,
    /// Plans for a software driver that runs so many invocations as one vector, see [`DeviceProfile::vector_width`]: where an adapter does
    /// not say that it is one, and for testing. Results stay right on any device. Default: 8 where the adapter's name has "llvmpipe", else
    /// 0, not known.
    pub vector_width: Option<u32>,
    /// Loads tensors that are only read by 64-bit integers: two elements at once, or four of 16 bits. llvmpipe loads number by number, so
    /// that this makes half as many of them; GPUs load 16 bytes at once as it is. Results are the same to the bit. Only with
    /// [`wgpu::Features::SHADER_INT64`] on the device, see [`OPTIONAL_FEATURES`](crate::OPTIONAL_FEATURES). Default: where the device has
    /// that and plans are for a software driver with a [`vector_width`](DeviceProfile::vector_width).
    pub double_words: Option<bool>,
    /// The caller's pipeline cache, used for every pipeline. Default: none.
    pub pipeline_cache: Option<wgpu::PipelineCache>,
}

/// The run-time checks that wgpu compiles into a shader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ShaderChecks {
    /// Memory accesses are checked; loops are not counted and divisors not tested, since the planner bounds every loop
    /// and never gives a divisor of 0.
    #[default]
    Trusted,
    /// Everything that wgpu offers. Same results, slower; to rule the crate out when hunting a bug.
    Checked,
}

#[derive(Default)]
struct Store {
    pipelines: HashMap<(Variant, Constants), Pipeline>,
    placeholders: Option<Placeholders>,
}

/// A pipeline and the layout that its bind groups need.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Stand-ins for optional buffers that the caller does not have. Shaders do not write them, and read what they hold only
/// to throw it away.
#[derive(Clone, Debug)]
pub(super) struct Placeholders {
    /// Bound where a kernel reads.
    pub read: wgpu::Buffer,
    /// Bound where a kernel could write: a range per role, since written ranges must not overlap.
    pub write: wgpu::Buffer,
}

/// Bytes that a placeholder binding shows.
pub(super) const PLACEHOLDER_SIZE: u64 = 16;

const fn class_of(device: wgpu::DeviceType) -> AdapterClass {
    match device {
        wgpu::DeviceType::DiscreteGpu => AdapterClass::Discrete,
        wgpu::DeviceType::Cpu => AdapterClass::Cpu,
        wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => {
            AdapterClass::Integrated
        }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels")
            .field("device", &self.shared.device)
            .field("profile", &self.profile)
            .field("double_words", &self.shared.double_words)
            .finish()
    }
}

impl Kernels {
    /// Kernels as [`KernelsDescriptor::default`] has them. Takes note of the device's limits and compiles nothing yet.
    #[must_use]
    pub fn new(device: &wgpu::Device) -> Self {
        Self::with_descriptor(device, &KernelsDescriptor::default())
    }

    /// Kernels as described. Takes note of the device's limits and compiles nothing yet.
    #[must_use]
    pub fn with_descriptor(device: &wgpu::Device, descriptor: &KernelsDescriptor) -> Self {
        let info = device.adapter_info();
        let class = descriptor.class.unwrap_or_else(|| class_of(info.device_type));
        let limits = device.limits();
        let profile = DeviceProfile {
            class,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
            max_uniform_buffer_binding_size: limits.max_uniform_buffer_binding_size,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: limits.max_compute_workgroup_size_x,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_window_size: descriptor.max_window_size.unwrap_or(DeviceProfile::DEFAULT_MAX_WINDOW_SIZE),
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
            min_uniform_buffer_offset_alignment: limits.min_uniform_buffer_offset_alignment,
            vector_width: descriptor.vector_width.unwrap_or(if info.name.contains("llvmpipe") { 8 } else { 0 }),
        };
        let double_words = descriptor.double_words.unwrap_or(profile.is_cpu() && profile.vector_width > 0);
        let shared = Shared {
            device: device.clone(),
            checks: descriptor.checks,
            cache: descriptor.pipeline_cache.clone(),
            double_words: double_words && device.features().contains(wgpu::Features::SHADER_INT64),
            store: Mutex::default(),
        };
        Self { shared: Arc::new(shared), profile }
    }

    /// The same kernels, for plans whose dispatches go over other numbers of bytes, see
    /// [`KernelsDescriptor::max_window_size`]. Nothing is compiled again.
    #[must_use]
    pub fn with_max_window_size(&self, max_window_size: u64) -> Self {
        Self { shared: Arc::clone(&self.shared), profile: DeviceProfile { max_window_size, ..self.profile } }
    }

    /// The device's limits and class, as the planner sees them.
    #[must_use]
    pub fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    /// The device that they are compiled for.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.shared.device
    }

    /// Whether tensors are loaded by 64-bit integers, see [`KernelsDescriptor::double_words`].
    #[must_use]
    pub fn double_words(&self) -> bool {
        self.shared.double_words
    }

    pub(super) fn pipeline(&self, variant: Variant, constants: Constants) -> Result<Pipeline, Error> {
        let constants = variant.constants(constants);
        let mut store = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = store.pipelines.get(&(variant, constants)) {
            return Ok(pipeline.clone());
        }
        let _span = trace::creating_pipeline(variant);
        let pipeline = scoped(&self.shared.device, "a pipeline", || Ok(self.compile(variant, constants)))?;
        store.pipelines.insert((variant, constants), pipeline.clone());
        Ok(pipeline)
    }

    pub(super) fn placeholders(&self) -> Result<Placeholders, Error> {
        let mut store = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(placeholders) = &store.placeholders {
            return Ok(placeholders.clone());
        }
        let buffer = |label, size| {
            self.shared.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let placeholders = scoped(&self.shared.device, "a placeholder buffer", || {
            Ok(Placeholders {
                read: buffer("wgpu_batch_norm::placeholder::read", PLACEHOLDER_SIZE),
                write: buffer(
                    "wgpu_batch_norm::placeholder::write",
                    self.placeholder_offset(Role::LAST) + PLACEHOLDER_SIZE,
                ),
            })
        })?;
        store.placeholders = Some(placeholders.clone());
        Ok(placeholders)
    }

    /// Where a role's range of the writable placeholder starts.
    pub(super) fn placeholder_offset(&self, role: Role) -> u64 {
        u64::from(role.binding()) * self.profile.slice_alignment()
    }

    fn compile(&self, variant: Variant, constants: Constants) -> Pipeline {
        let device = &self.shared.device;
        let label = format!("wgpu_batch_norm::{}", variant.name());
        let entry = |binding, ty, min_binding_size| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size },
            count: None,
        };
        let uniform = entry(0, wgpu::BufferBindingType::Uniform, wgpu::BufferSize::new(size_of::<Params>() as u64));
        let storage = variant.bindings().into_iter().map(|(role, written)| {
            entry(role.binding(), wgpu::BufferBindingType::Storage { read_only: !written }, None)
        });
        let entries: Vec<_> = std::iter::once(uniform).chain(storage).collect();
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let module = module::create(device, &label, variant.source(), self.shared.checks);
        let constants = constants.list();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            })),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.shared.cache.as_ref(),
        });
        Pipeline { pipeline, layout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_device_has_its_class() {
        for (device, class) in [
            (wgpu::DeviceType::DiscreteGpu, AdapterClass::Discrete),
            (wgpu::DeviceType::IntegratedGpu, AdapterClass::Integrated),
            (wgpu::DeviceType::VirtualGpu, AdapterClass::Integrated),
            (wgpu::DeviceType::Other, AdapterClass::Integrated),
            (wgpu::DeviceType::Cpu, AdapterClass::Cpu),
        ] {
            assert_eq!(class_of(device), class, "{device:?}");
        }
    }
}
