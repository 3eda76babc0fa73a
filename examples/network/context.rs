//! The device and its pipelines, each compiled when first needed.

use std::cell::RefCell;
use std::collections::HashMap;

use wgpu::util::DeviceExt as _;
use wgpu_batch_norm::Kernels;

use super::support::Gpu;
use super::tensor::View;

/// Invocations per workgroup of every kernel that does not say otherwise, as written in the WGSL.
pub const WORKGROUP: usize = 64;

/// A kernel: an entry point of a text, and a name that no other kernel has.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub name: &'static str,
    pub entry_point: &'static str,
    pub source: &'static str,
}

/// The kernel in `kernels/`.
macro_rules! kernel {
    ($name:literal) => {
        $crate::network::context::Kernel {
            name: $name,
            entry_point: "main",
            source: include_str!(concat!("kernels/", $name, ".wgsl")),
        }
    };
}
pub(super) use kernel;

/// What all parts of a network share.
pub struct Context {
    pub gpu: Gpu,
    /// The crate's pipelines, shared by all batch norms.
    pub kernels: Kernels,
    pipelines: RefCell<HashMap<String, wgpu::ComputePipeline>>,
}

impl Context {
    pub fn new(gpu: Gpu) -> Self {
        Self { kernels: Kernels::new(&gpu.device), gpu, pipelines: RefCell::default() }
    }

    /// Values on the device, all 0.
    pub fn zeros(&self, label: &str, len: usize) -> View {
        View::whole(self.gpu.zeroed(label, 4 * len as u64), len)
    }

    /// Values on the device.
    pub fn upload<T: bytemuck::Pod>(&self, label: &str, values: &[T]) -> View {
        View::whole(self.gpu.upload(label, values), size_of_val(values) / 4)
    }

    /// Replaces values on the device, before whatever is submitted next.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn write<T: bytemuck::Pod>(&self, view: &View, values: &[T]) {
        assert_eq!(size_of_val(values), 4 * view.len, "as many values as the view has");
        self.gpu.queue.write_buffer(&view.buffer, view.offset, bytemuck::cast_slice(values));
    }

    /// Values from the device, after everything submitted before.
    pub fn read<T: bytemuck::Pod>(&self, view: &View) -> Vec<T> {
        let skip = view.offset as usize / size_of::<T>();
        self.gpu.read(&view.buffer, skip + 4 * view.len / size_of::<T>()).split_off(skip)
    }

    /// A small block of constants for a kernel.
    pub fn uniform<T: bytemuck::Pod>(&self, label: &str, values: &[T]) -> wgpu::Buffer {
        let mut contents = bytemuck::cast_slice(values).to_vec();
        contents.resize(contents.len().next_multiple_of(16), 0);
        self.gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(label),
            contents: &contents,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        })
    }

    /// A dispatch of so many invocations; bindings in the order of the shader, constants those of its `override`s.
    pub fn bind(
        &self,
        kernel: Kernel,
        constants: &[(&str, f64)],
        invocations: usize,
        bindings: &[wgpu::BufferSlice<'_>],
    ) -> Dispatch {
        self.bind_workgroups(kernel, constants, invocations.div_ceil(WORKGROUP), bindings)
    }

    /// A dispatch of so many workgroups.
    ///
    /// # Panics
    /// If there are more than any device promises to take.
    pub fn bind_workgroups(
        &self,
        kernel: Kernel,
        constants: &[(&str, f64)],
        workgroups: usize,
        bindings: &[wgpu::BufferSlice<'_>],
    ) -> Dispatch {
        let numbered: Vec<_> = (0..).zip(bindings.iter().copied()).collect();
        self.bind_numbered(kernel, constants, workgroups, &numbered)
    }

    /// The same with bindings by their numbers, for a text whose entry points leave some out.
    ///
    /// # Panics
    /// As [`Context::bind_workgroups`].
    pub fn bind_numbered(
        &self,
        kernel: Kernel,
        constants: &[(&str, f64)],
        workgroups: usize,
        bindings: &[(u32, wgpu::BufferSlice<'_>)],
    ) -> Dispatch {
        assert!(workgroups <= 65_535, "{}: {workgroups} workgroups are too many for one dispatch", kernel.name);
        let pipeline = self.pipeline(kernel, constants);
        let mut entries = Vec::with_capacity(bindings.len());
        for &(binding, slice) in bindings {
            let resource = wgpu::BindingResource::try_from(slice).expect("no slice is empty");
            entries.push(wgpu::BindGroupEntry { binding, resource });
        }
        let bind_group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { pipeline, bind_group, workgroups: workgroups as u32 }
    }

    fn pipeline(&self, kernel: Kernel, constants: &[(&str, f64)]) -> wgpu::ComputePipeline {
        let key = format!("{} {constants:?}", kernel.name);
        let mut pipelines = self.pipelines.borrow_mut();
        pipelines.entry(key).or_insert_with(|| compile(&self.gpu.device, kernel, constants)).clone()
    }
}

fn compile(device: &wgpu::Device, kernel: Kernel, constants: &[(&str, f64)]) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: wgpu::ShaderSource::Wgsl(kernel.source.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name),
        // Taken from the shader: it says which bindings are read only.
        layout: None,
        module: &module,
        entry_point: Some(kernel.entry_point),
        compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
        cache: None,
    })
}

/// A kernel bound to buffers, to be recorded any number of times: the counterpart of the crate's `Step`.
#[derive(Clone, Debug)]
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
