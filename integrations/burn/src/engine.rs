//! What a wgpu device needs to run the kernels: pipelines, plans, a workspace and the queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use wgpu_batch_norm::exchange::Fetch;
use wgpu_batch_norm::{BatchNorm, BatchNormDescriptor, ElementType, Kernels, Plan, Shape, wgpu};

use crate::Unserved;
use crate::memory::{Held, Order};
use crate::settings::Settings;

/// The most plans that are kept. A program that meets more shapes plans them anew, which takes microseconds.
const MAX_PLANS: usize = 256;
/// How long the device may take for the moments of a batch before it counts as lost.
const LONGEST: Duration = Duration::from_secs(300);

/// A device's kernels and what they share.
pub(crate) struct Engine {
    device: wgpu::Device,
    queue: wgpu::Queue,
    kernels: Kernels,
    plans: Mutex<HashMap<Key, Planned>>,
    workspace: Mutex<Option<wgpu::Buffer>>,
}

/// What a plan depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    settings: [u64; 5],
    element: ElementType,
    /// N, C, and the product of the rest; channels last: N times the rest, C, and 1.
    shape: [usize; 3],
}

/// A batch norm and its plan of a shape.
#[derive(Clone)]
pub(crate) struct Planned {
    pub norm: BatchNorm,
    pub plan: Arc<Plan>,
}

impl Engine {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self {
            device: device.clone(),
            queue: queue.clone(),
            kernels: Kernels::new(device),
            plans: Mutex::default(),
            workspace: Mutex::default(),
        }
    }

    /// Checks that the device binds one of Burn's buffers.
    pub(crate) fn check_ownership(&self, tensor: &CubeTensor) -> Result<(), Unserved> {
        let held = Held::new(tensor)?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let entry = wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: true },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let layout =
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &[entry] });
        let entry = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding(&held)?) };
        let _ = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &[entry],
        });
        match burn::tensor::read_sync(scope.pop()) {
            Some(error) => Err(Unserved::ForeignSetup { reason: error.to_string() }),
            None => Ok(()),
        }
    }

    /// The plan of a tensor `[N, C, ...]`, kept from one step to the next.
    pub(crate) fn plan(
        &self,
        dims: &[usize],
        dtype: DType,
        order: Order,
        settings: &Settings,
    ) -> Result<Planned, Unserved> {
        let element = match dtype {
            DType::F32 => ElementType::F32,
            DType::F16 => ElementType::F16,
            DType::BF16 => ElementType::Bf16,
            other => return Err(Unserved::ElementType(other)),
        };
        let (samples, channels, rest) = (dims[0], dims[1], dims[2..].iter().product::<usize>());
        let shape = match order {
            Order::ChannelsFirst => [samples, channels, rest],
            Order::ChannelsLast => [samples * rest, channels, 1],
        };
        let key = Key { settings: settings.key(), element, shape };
        if let Some(planned) = lock(&self.plans).get(&key) {
            return Ok(planned.clone());
        }
        let too_large = || wgpu_batch_norm::Error::ShapeTooLarge { shape: dims.to_vec() };
        let descriptor = BatchNormDescriptor {
            label: Some("burn".into()),
            channels: u32::try_from(channels).map_err(|_| too_large())?,
            convention: settings.convention(),
            element,
            activation: settings.activation.for_kernels(),
            ..Default::default()
        };
        let norm = BatchNorm::with_kernels(&self.kernels, &descriptor)?;
        let [outer, channels, inner] = shape;
        let plan = Arc::new(norm.plan(&Shape::flat(outer, channels, inner))?);
        let planned = Planned { norm, plan };
        let mut plans = lock(&self.plans);
        if plans.len() >= MAX_PLANS {
            plans.clear();
        }
        plans.insert(key, planned.clone());
        Ok(planned)
    }

    /// Scratch of at least `size` bytes. All steps share it: they run one after the other on the one queue.
    pub(crate) fn workspace(&self, size: u64) -> wgpu::Buffer {
        let mut workspace = lock(&self.workspace);
        match &*workspace {
            Some(buffer) if buffer.size() >= size => buffer.clone(),
            _ => {
                let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("burn: batch norm workspace"),
                    size: size.next_power_of_two().max(256),
                    usage: wgpu::BufferUsages::STORAGE,
                    mapped_at_creation: false,
                });
                *workspace = Some(buffer.clone());
                buffer
            }
        }
    }

    /// Submits one step. What Burn submits later comes after it.
    pub(crate) fn submit(&self, record: impl FnOnce(&mut wgpu::CommandEncoder)) -> wgpu::SubmissionIndex {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("burn") });
        record(&mut encoder);
        self.queue.submit([encoder.finish()])
    }

    /// Waits until the device has carried out a submission and its records are on the host.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex, fetch: Fetch) -> Result<(), Unserved> {
        let waited =
            self.device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(LONGEST) });
        waited.map_err(|error| Unserved::Runtime { reason: error.to_string() })?;
        // Another thread that polls the device may have taken the answer over, and be about to give it.
        burn::tensor::read_sync(fetch).map_err(|error| Unserved::Exchange { reason: error.to_string() })
    }

    /// A buffer for records that are exchanged.
    pub(crate) fn records(&self, label: &str, size: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }
}

fn binding(held: &Held) -> Result<wgpu::BufferBinding<'_>, Unserved> {
    let slice = held.slice(4);
    wgpu::BufferBinding::try_from(slice).map_err(|error| Unserved::Runtime { reason: format!("{error:?}") })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
