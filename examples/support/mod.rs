//! What every example, test and benchmark needs of wgpu: adapters, a device, upload and read-back.
//!
//! Not part of the crate: the crate never opens devices, submits or waits.
#![allow(dead_code, reason = "each program uses its part")]

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use bytemuck::Pod;

/// What to tell somebody whose machine has no adapter.
pub const NO_ADAPTER: &str = "\
No Vulkan, Metal, DX12 or OpenGL adapter was found.
  Debian, Ubuntu:  sudo apt-get install mesa-vulkan-drivers libvulkan1   (software driver, or your GPU vendor's driver)
  Fedora:          sudo dnf install mesa-vulkan-drivers vulkan-loader
  Arch:            sudo pacman -S vulkan-swrast vulkan-icd-loader
  macOS, Windows:  Metal and DX12 come with the system; update the graphics driver.";

/// What to tell somebody for whose `filter` no adapter was found.
pub fn missing(filter: Option<&str>) -> String {
    let all = if filter.is_some() { open_all(None) } else { Vec::new() };
    match filter {
        Some(filter) if !all.is_empty() => {
            let names: String = all.iter().map(|gpu| format!("\n  {gpu}")).collect();
            format!("No adapter contains \"{filter}\" in its name, backend or driver. There are:{names}")
        }
        _ => NO_ADAPTER.to_owned(),
    }
}

/// The `main` of a program: opens the best adapter that matches `filter` and says which, runs, and says what went wrong.
pub fn main<E: fmt::Display>(filter: Option<&str>, run: impl FnOnce(Gpu) -> Result<ExitCode, E>) -> ExitCode {
    let Some(gpu) = open_best(filter) else {
        eprintln!("{}", missing(filter));
        return ExitCode::from(2);
    };
    println!("adapter: {gpu}");
    run(gpu).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// How long a read-back may take before it counts as a hang.
const TIMEOUT: Duration = Duration::from_secs(300);

/// One adapter with an open device.
pub struct Gpu {
    pub info: wgpu::AdapterInfo,
    pub adapter: wgpu::Adapter,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        write!(f, "{} ({:?}, {:?}, {} {})", info.name, info.backend, info.device_type, info.driver, info.driver_info)
    }
}

/// Every adapter of the machine whose name, backend or driver contains `filter` (any case); `None` or "all" takes all.
///
/// `WGPU_BACKEND` narrows the backends.
pub fn open_all(filter: Option<&str>) -> Vec<Gpu> {
    open_each(filter, |limits| limits)
}

/// Every adapter of the machine, each with a device that has the limits that are made of the adapter's, and no more.
pub fn open_all_within(limits: impl Fn(wgpu::Limits) -> wgpu::Limits) -> Vec<Gpu> {
    open_each(None, limits)
}

fn open_each(filter: Option<&str>, limits: impl Fn(wgpu::Limits) -> wgpu::Limits) -> Vec<Gpu> {
    let filter = filter.filter(|filter| !filter.eq_ignore_ascii_case("all")).map(str::to_lowercase);
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let matches = |info: &wgpu::AdapterInfo| {
        let text = format!("{} {:?} {} {}", info.name, info.backend, info.driver, info.driver_info).to_lowercase();
        filter.as_ref().is_none_or(|filter| text.contains(filter))
    };
    adapters
        .iter()
        .filter(|adapter| matches(&adapter.get_info()))
        .filter_map(|adapter| open(adapter, limits(adapter.limits())))
        .collect()
}

/// The first adapter that matches, real GPUs before software drivers.
pub fn open_best(filter: Option<&str>) -> Option<Gpu> {
    open_in_turn(filter, 0)
}

/// The same, and where there are several as good, another one for every `turn`: one for each process of a machine.
pub fn open_in_turn(filter: Option<&str>, turn: usize) -> Option<Gpu> {
    let rank = |gpu: &Gpu| match gpu.info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    };
    let mut all = open_all(filter);
    all.sort_by_key(rank);
    // A GPU that two backends serve is one GPU.
    let kind = |gpu: &Gpu| (gpu.info.device_type, gpu.info.backend);
    let best = kind(all.first()?);
    all.retain(|gpu| kind(gpu) == best);
    let own = turn % all.len();
    Some(all.swap_remove(own))
}

fn open(adapter: &wgpu::Adapter, required_limits: wgpu::Limits) -> Option<Gpu> {
    // OpenGL drivers of old GPUs draw and do not compute.
    if !adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        eprintln!("{}: no compute shaders", adapter.get_info().name);
        return None;
    }
    let timestamps = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    let wanted = timestamps | wgpu_batch_norm::OPTIONAL_FEATURES;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgpu_batch_norm::examples::device"),
        required_features: adapter.features() & wanted,
        required_limits,
        ..Default::default()
    };
    match pollster::block_on(adapter.request_device(&descriptor)) {
        Ok((device, queue)) => Some(Gpu { info: adapter.get_info(), adapter: adapter.clone(), device, queue }),
        Err(error) => {
            let message = format!("{}: no device: {error}", adapter.get_info().name);
            // A program has other adapters; a test would pass without this one.
            if cfg!(test) {
                panic!("{message}");
            }
            eprintln!("{message}");
            None
        }
    }
}

impl Gpu {
    /// Another device of the same adapter, and so of the same instance, with the same limits.
    pub fn twin(&self) -> Option<Self> {
        open(&self.adapter, self.device.limits())
    }

    /// A storage buffer that holds `values`.
    pub fn upload<T: Pod>(&self, label: &str, values: &[T]) -> wgpu::Buffer {
        let bytes = bytemuck::cast_slice::<T, u8>(values);
        let buffer = self.zeroed(label, bytes.len() as u64);
        if !bytes.is_empty() {
            self.queue.write_buffer(&buffer, 0, bytes);
        }
        buffer
    }

    /// A storage buffer of `size` bytes (rounded up to 4, at least 16), zero as wgpu leaves it.
    pub fn zeroed(&self, label: &str, size: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: size.next_multiple_of(4).max(16),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Records, submits and leaves the work running.
    pub fn submit(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        self.queue.submit([encoder.finish()]);
    }

    /// The first `count` values of a buffer, after everything submitted before.
    pub fn read<T: Pod>(&self, buffer: &wgpu::Buffer, count: usize) -> Vec<T> {
        self.read_from(buffer, 0, count)
    }

    /// The same from byte `offset` on.
    pub fn read_from<T: Pod>(&self, buffer: &wgpu::Buffer, offset: u64, count: usize) -> Vec<T> {
        let size = (count * size_of::<T>()) as u64;
        if size == 0 {
            return Vec::new();
        }
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgpu_batch_norm::examples::read_back"),
            size: size.next_multiple_of(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, staging.size());
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            sender.send(result).expect("the receiver lives until the map is done");
        });
        self.wait();
        pollster::block_on(receiver.receive()).expect("the sender has sent").expect("the buffer is mapped");
        let view = staging.get_mapped_range(..).expect("the buffer is mapped");
        // Collected value by value: the mapping need not be aligned for T.
        view.chunks_exact(size_of::<T>()).take(count).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Waits for everything submitted; panics when the device hangs.
    pub fn wait(&self) {
        self.device
            .poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(TIMEOUT) })
            .expect("the device finishes in time");
    }
}
