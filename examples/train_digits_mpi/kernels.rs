//! The kernels of a fully connected network whose batch may be a share of a larger one, or none of it: the example library's take
//! whole batches.

use wgpu_batch_norm::wgpu;

use crate::network::context::{Context, Dispatch, Kernel, WORKGROUP};

/// As in the WGSL.
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub batch: usize,
}

/// An entry point bound to what it takes: binding numbers and slices.
pub fn bind(
    context: &Context,
    entry_point: &'static str,
    invocations: usize,
    shape: Option<Shape>,
    bindings: &[(u32, wgpu::BufferSlice<'_>)],
) -> Dispatch {
    let kernel = Kernel { name: entry_point, entry_point, source: include_str!("kernels.wgsl") };
    let uniform = shape.map(|Shape { rows, inputs, outputs, batch }| {
        context.uniform("shape", &[rows as u32, inputs as u32, outputs as u32, batch as u32])
    });
    let shape = uniform.iter().map(|buffer| (0, buffer.slice(..)));
    let bindings: Vec<_> = shape.chain(bindings.iter().copied()).collect();
    context.bind_numbered(kernel, &[], invocations.div_ceil(WORKGROUP), &bindings)
}
