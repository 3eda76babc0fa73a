//! The yardsticks: a copy and a read-only sum of the same tensor, sixteen bytes at a time, each as fast as it can be had.

use wgpu_batch_norm::AdapterClass;

use crate::buffers::noise;
use crate::support::Gpu;
use crate::timer::{Record, Timer};

/// Blocks of four units that an invocation takes; which one is fast depends on the device, by factors.
const BLOCKS: [u32; 5] = [1, 2, 4, 8, 16];

/// Bytes of the tensor on which they are chosen.
const TRIAL: u64 = 32 << 20;

const TEXTS: [&str; 2] =
    [include_str!("../../benches/kernels/copy.wgsl"), include_str!("../../benches/kernels/sum.wgsl")];

/// How sixteen bytes are loaded and copied.
const UNITS: [&str; 2] =
    [include_str!("../../benches/kernels/vectors.wgsl"), include_str!("../../benches/kernels/double_words.wgsl")];

/// A yardstick kernel.
pub struct Yardstick {
    pipeline: wgpu::ComputePipeline,
    workgroup_size: u32,
    blocks: u32,
    /// 16-byte units that a workgroup takes.
    units_per_group: u64,
}

/// A yardstick over two buffers, a dispatch for every part of them that fits a binding.
pub struct BoundYardstick<'a> {
    pipeline: &'a wgpu::ComputePipeline,
    dispatches: Vec<(wgpu::BindGroup, [u32; 2])>,
}

/// Copies (every byte of the input to the output) and sums (every byte of the input, one result per invocation), one of each
/// workgroup size with the block count that is fastest on this device: a slow yardstick would flatter what is measured by it.
/// Which workgroup size is the fastest depends on the tensor. With `double_words` as many again that take 64-bit integers, which
/// the device must have.
pub fn fastest(gpu: &Gpu, timer: &Timer<'_>, class: AdapterClass, double_words: bool) -> [Vec<Yardstick>; 2] {
    let size = TRIAL.min(gpu.device.limits().max_storage_buffer_binding_size);
    let input = gpu.upload("input", &(0..size / 4).map(|index| noise(0, index)).collect::<Vec<f32>>());
    let output = gpu.upload("output", &(0..size / 4).map(|index| noise(1, index)).collect::<Vec<f32>>());
    let units = if double_words { &UNITS[..] } else { &UNITS[..1] };
    TEXTS.map(|text| {
        let kinds = units
            .iter()
            .flat_map(|unit| workgroup_sizes(class).iter().map(move |size| (*size, [*unit, text].concat())));
        let fastest = kinds.map(|(workgroup_size, text)| {
            let candidates = BLOCKS.map(|blocks| Yardstick::new(gpu, workgroup_size, blocks, &text));
            let bounds = candidates.each_ref().map(|candidate| candidate.bind(gpu, &input, &output, size));
            let records = bounds.each_ref().map(|bound| -> Record<'_> { Box::new(|_, pass| bound.record(pass)) });
            let times = timer.alternate(0.01, 5, 1, &records);
            let order = BLOCKS.iter().zip(&times).min_by(|a, b| a.1.time.total_cmp(&b.1.time));
            Yardstick::new(gpu, workgroup_size, order.map_or(1, |(blocks, _)| *blocks), &text)
        });
        fastest.collect()
    })
}

/// The copy and the sum with one block an invocation, which is the fastest on software drivers at most sizes.
pub fn shortest(gpu: &Gpu, class: AdapterClass) -> [Vec<Yardstick>; 2] {
    TEXTS.map(|text| vec![Yardstick::new(gpu, workgroup_sizes(class)[0], 1, &[UNITS[0], text].concat())])
}

/// Workgroup sizes that are tried. One vector a workgroup is fastest on a software driver where memory is slow.
const fn workgroup_sizes(class: AdapterClass) -> &'static [u32] {
    if matches!(class, AdapterClass::Cpu) { &[64, 8] } else { &[256] }
}

impl Yardstick {
    fn new(gpu: &Gpu, workgroup_size: u32, blocks: u32, text: &str) -> Self {
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let constants = [("WORKGROUP_SIZE", f64::from(workgroup_size)), ("BLOCKS", f64::from(blocks))];
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Self { pipeline, workgroup_size, blocks, units_per_group: u64::from(workgroup_size * 4 * blocks) }
    }

    /// Invocations of a workgroup.
    pub const fn workgroup_size(&self) -> u32 {
        self.workgroup_size
    }

    /// Blocks of four 16-byte units that an invocation takes.
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Binds the first `size` bytes of two buffers.
    pub fn bind(&self, gpu: &Gpu, input: &wgpu::Buffer, output: &wgpu::Buffer, size: u64) -> BoundYardstick<'_> {
        let size = size.max(16);
        // A multiple of every alignment that a device may ask for.
        let most = gpu.device.limits().max_storage_buffer_binding_size / 256 * 256;
        let dispatches = (0..size.div_ceil(most)).map(|part| {
            let part_size = most.min(size - part * most);
            let entry = |binding, buffer| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: part * most,
                    size: wgpu::BufferSize::new(part_size),
                }),
            };
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &self.pipeline.get_bind_group_layout(0),
                entries: &[entry(0, input), entry(1, output)],
            });
            let groups = (part_size / 16).div_ceil(self.units_per_group) as u32;
            let width = groups.min(65535);
            (bind_group, [width, groups.div_ceil(width)])
        });
        BoundYardstick { pipeline: &self.pipeline, dispatches: dispatches.collect() }
    }
}

impl BoundYardstick<'_> {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(self.pipeline);
        for (bind_group, [width, height]) in &self.dispatches {
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(*width, *height, 1);
        }
    }
}
