//! Shader modules; the crate's one `unsafe` call but for those of MPI's functions (`exchange`, feature `mpi`).
#![allow(
    unsafe_code,
    reason = "wgpu compiles a module without its loop and division checks only through an unsafe call"
)]

use std::borrow::Cow;

use super::kernels::ShaderChecks;

/// Compiles one of the crate's own shaders.
pub(super) fn create(device: &wgpu::Device, label: &str, source: String, checks: ShaderChecks) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(Cow::Owned(source)) };
    match checks {
        ShaderChecks::Checked => device.create_shader_module(descriptor),
        ShaderChecks::Trusted => {
            let runtime_checks = wgpu::ShaderRuntimeChecks {
                force_loop_bounding: false,
                int_div_checks: false,
                ..wgpu::ShaderRuntimeChecks::checked()
            };
            // SAFETY: without these two checks a shader must not loop for ever and must not divide by zero. The source is
            // always one of `shaders/`. Every loop there counts up to a bound that is a constant or comes from the parameter
            // block, by steps that are constants, come from that block or are what those give (a level of so many trips, rows
            // or slots; the side of a run's cube), and are at least 1; every divisor is a constant or comes from that block.
            // The block is written by the planner alone, into a buffer that nobody else can write (usage UNIFORM only), and the
            // planner's tests hold that steps and divisors are at least 1 where a kernel uses them, and that loops are bounded.
            // `trips_in_step` divides only where `KEEPS_IN_STEP` says that it is not 0. Memory accesses stay checked.
            unsafe { device.create_shader_module_trusted(descriptor, runtime_checks) }
        }
    }
}
