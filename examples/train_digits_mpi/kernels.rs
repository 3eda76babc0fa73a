//! The kernels of a fully connected network, and dispatches of them bound to buffers.

use wgpu::util::DeviceExt as _;
use wgpu_batch_norm::wgpu;

const WORKGROUP: u32 = 64;

/// As in the WGSL.
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub batch: usize,
}

pub struct Kernels {
    device: wgpu::Device,
    module: wgpu::ShaderModule,
}

impl Kernels {
    pub fn new(device: &wgpu::Device) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("kernels of a dense network"),
            source: wgpu::ShaderSource::Wgsl(include_str!("kernels.wgsl").into()),
        });
        Self { device: device.clone(), module }
    }

    /// An entry point bound to what it takes: binding numbers and slices.
    pub fn bind(
        &self,
        entry_point: &str,
        invocations: usize,
        shape: Option<Shape>,
        bindings: &[(u32, wgpu::BufferSlice<'_>)],
    ) -> Dispatch {
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry_point),
            layout: None,
            module: &self.module,
            entry_point: Some(entry_point),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let uniform = shape.map(|Shape { rows, inputs, outputs, batch }| {
            self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("shape"),
                contents: bytemuck::cast_slice(&[rows as u32, inputs as u32, outputs as u32, batch as u32]),
                usage: wgpu::BufferUsages::UNIFORM,
            })
        });
        let shape = uniform.iter().map(|buffer| (0, buffer.slice(..)));
        let entries: Vec<_> = shape
            .chain(bindings.iter().copied())
            .map(|(binding, slice)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::try_from(slice).expect("no slice is empty"),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(entry_point),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { pipeline, group, workgroups: (invocations as u32).div_ceil(WORKGROUP) }
    }
}

pub struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    workgroups: u32,
}

impl Dispatch {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }
}
