//! The example's own kernels: pipelines, and dispatches bound to buffers.
//!
//! Nothing here is about batch norm; a program that links the crate brings kernels of this kind with it.

use wgpu_batch_norm::wgpu;

/// Invocations per workgroup of every kernel, as written in the WGSL.
const WORKGROUP: usize = 64;

/// One of the kernels, compiled.
#[derive(Debug)]
pub struct Kernel {
    name: &'static str,
    pipeline: wgpu::ComputePipeline,
}

/// All kernels, compiled for one device.
#[derive(Debug)]
pub struct DenseKernels {
    pub gather_batch: Kernel,
    pub linear_forward: Kernel,
    pub linear_backward_input: Kernel,
    pub linear_backward_weight: Kernel,
    pub linear_backward_bias: Kernel,
    pub sigmoid_forward: Kernel,
    pub sigmoid_backward: Kernel,
    pub softmax_cross_entropy: Kernel,
    pub sgd_update: Kernel,
}

impl DenseKernels {
    pub fn new(device: &wgpu::Device) -> Self {
        macro_rules! kernel {
            ($name:literal) => {
                Kernel::new(device, $name, include_str!(concat!("../network/kernels/", $name, ".wgsl")))
            };
            (own $name:literal) => {
                Kernel::new(device, $name, include_str!(concat!("kernels/", $name, ".wgsl")))
            };
        }
        Self {
            gather_batch: kernel!(own "gather_batch"),
            linear_forward: kernel!("linear_forward"),
            linear_backward_input: kernel!("linear_backward_input"),
            linear_backward_weight: kernel!("linear_backward_weight"),
            linear_backward_bias: kernel!("linear_backward_bias"),
            sigmoid_forward: kernel!("activation_forward"),
            sigmoid_backward: kernel!("activation_backward"),
            softmax_cross_entropy: kernel!("softmax_cross_entropy"),
            sgd_update: kernel!(own "sgd_update"),
        }
    }
}

impl Kernel {
    fn new(device: &wgpu::Device, name: &'static str, source: &'static str) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            // Taken from the shader: it says which bindings are read only.
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { name, pipeline }
    }

    /// A dispatch of `invocations`; `bindings` in the order of the shader.
    pub fn bind(&self, device: &wgpu::Device, invocations: usize, bindings: &[wgpu::BufferSlice<'_>]) -> Dispatch {
        let mut entries = Vec::with_capacity(bindings.len());
        for (binding, slice) in (0..).zip(bindings) {
            let resource = wgpu::BindingResource::try_from(*slice).expect("no slice is empty");
            entries.push(wgpu::BindGroupEntry { binding, resource });
        }
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.name),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { pipeline: self.pipeline.clone(), bind_group, workgroups: invocations.div_ceil(WORKGROUP) as u32 }
    }
}

/// A kernel bound to buffers, to be recorded any number of times: the counterpart of the crate's `Step`.
#[derive(Debug)]
pub struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
}

impl Dispatch {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }
}
