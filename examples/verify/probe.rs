//! What is measured of an adapter before it is judged.

use wgpu_batch_norm::wgpu;

use crate::support::Gpu;

/// What WGSL leaves to the implementation and results depend on.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Takes subnormal operands of f32 arithmetic for zero.
    pub flushes_subnormals: bool,
}

/// A product whose exact value is a normal number, if its subnormal factor counts. Both factors come from a buffer, so
/// that no compiler can work it out.
const PRODUCT: &str = "
@group(0) @binding(0) var<storage, read> factors: array<f32, 2>;
@group(0) @binding(1) var<storage, read_write> product: array<f32, 1>;
@compute @workgroup_size(1) fn main() { product[0] = factors[0] * factors[1]; }
";

impl Traits {
    pub fn of(gpu: &Gpu) -> Self {
        let (factors, exact) = ([1e-40_f32, 1e30], 1e-40_f32 * 1e30);
        let input = gpu.upload("probe input", &factors);
        let output = gpu.upload("probe output", &[f32::NAN]);
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("probe"),
            source: wgpu::ShaderSource::Wgsl(PRODUCT.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("probe"),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("probe"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: input.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: output.as_entire_binding() },
            ],
        });
        gpu.submit(|pass| {
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        });
        let got = gpu.read::<f32>(&output, 1)[0];
        assert!(got == 0.0 || (got - exact).abs() <= 1e-6 * exact, "1e-40 · 1e30 gave {got:e}");
        Self { flushes_subnormals: got == 0.0 }
    }
}
