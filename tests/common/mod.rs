//! What the device tests share: adapters, cases, running a case on the reference and on a device.
#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../../examples/support/mod.rs"]
pub mod support;

pub mod case;
pub mod tolerance;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use support::Gpu;
use wgpu_batch_norm::{AdapterClass, Kernels, KernelsDescriptor, ShaderChecks};

/// One adapter and kernels planned for one class of machine.
pub struct Target {
    pub gpu: Arc<Gpu>,
    pub kernels: Kernels,
}

/// Every adapter of the machine, once with the plans of its own class and once with those of each other class, so that
/// a software driver proves what real GPUs will be given; one of them with wgpu's own checks in the shaders.
///
/// No adapter is a failure, not a pass.
///
/// The guard keeps device tests one at a time: software drivers use all cores anyway, and some Vulkan loaders do not
/// like several threads.
pub fn targets() -> (&'static [Target], MutexGuard<'static, ()>) {
    static TARGETS: OnceLock<Vec<Target>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let targets = TARGETS.get_or_init(|| {
        let plans = [
            (AdapterClass::Cpu, ShaderChecks::Trusted),
            (AdapterClass::Integrated, ShaderChecks::Checked),
            (AdapterClass::Discrete, ShaderChecks::Trusted),
        ];
        let adapters = support::open_all(None).into_iter().map(Arc::new);
        adapters
            .flat_map(|gpu| {
                plans.map(|(class, checks)| {
                    let descriptor = KernelsDescriptor { class: Some(class), checks, ..Default::default() };
                    Target { kernels: Kernels::with_descriptor(&gpu.device, &descriptor), gpu: Arc::clone(&gpu) }
                })
            })
            .collect()
    });
    assert!(!targets.is_empty(), "{}", support::NO_ADAPTER);
    (targets, guard)
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, planned as {:?}", self.gpu, self.kernels.profile().class)
    }
}
