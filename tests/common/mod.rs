//! What the device tests share: adapters, cases, running a case on the reference and on a device.
#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../../examples/support/mod.rs"]
pub mod support;

#[path = "../../examples/error_study/study/mod.rs"]
pub mod study;

pub mod case;
pub mod from_output;
pub mod memory;
pub mod parts;
pub mod tolerance;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use support::Gpu;
use wgpu_batch_norm::{AdapterClass, DeviceProfile, Kernels, KernelsDescriptor, ShaderChecks};

/// One adapter and kernels planned for one class of machine.
pub struct Target {
    pub gpu: Arc<Gpu>,
    pub kernels: Kernels,
    /// What is compiled into them.
    pub checks: ShaderChecks,
    /// Which of the plans for an adapter these are, from 0 to `plans`.
    pub plan: usize,
    /// How many targets the adapter has. Tests whose cases need not meet every class of machine share them out.
    pub plans: usize,
    /// Whether all tensors of a case lie in one buffer.
    pub pooled: bool,
}

impl Target {
    /// The same device and plans, with other checks in the shaders; what these targets have themselves is not compiled again.
    pub fn with_checks(&self, checks: ShaderChecks) -> Self {
        let kernels = if checks == self.checks {
            self.kernels.clone()
        } else {
            let class = Some(self.kernels.profile().class);
            let descriptor = KernelsDescriptor { class, checks, ..Default::default() };
            Kernels::with_descriptor(&self.gpu.device, &descriptor)
        };
        Self { gpu: Arc::clone(&self.gpu), kernels, checks, ..*self }
    }

    /// The same device and plans, with all tensors of a case in one buffer.
    pub fn pooled(&self) -> Self {
        Self { gpu: Arc::clone(&self.gpu), kernels: self.kernels.clone(), pooled: true, ..*self }
    }

    /// The same device and plans, with tensors beyond so many bytes cut into windows.
    pub fn in_windows(&self, max_window_size: u64) -> Self {
        let kernels = self.kernels.with_max_window_size(max_window_size);
        Self { gpu: Arc::clone(&self.gpu), kernels, ..*self }
    }
}

/// Every adapter of the machine, once with the plans of each class of machine, so that a software driver proves
/// what real GPUs will be given; one of them with wgpu's own checks in the shaders.
///
/// `WGPU_BATCH_NORM_PLANS`, a list of `cpu`, `integrated` and `discrete`, leaves it at some of them: where several
/// software drivers are tested, they share the classes out.
///
/// No adapter is a failure, not a pass, and so is it where none has `WGPU_BATCH_NORM_ADAPTER` in its name.
///
/// Each has turns: tests go one at a time on it, and beside those on other targets, so that no core waits for the target to which a
/// test is longest.
fn targets() -> (&'static [Target], &'static [Turn]) {
    static TARGETS: OnceLock<Vec<Target>> = OnceLock::new();
    static TURNS: OnceLock<Vec<Turn>> = OnceLock::new();
    let targets = TARGETS.get_or_init(|| {
        let mut plans = vec![
            ("cpu", AdapterClass::Cpu, ShaderChecks::Trusted),
            ("integrated", AdapterClass::Integrated, ShaderChecks::Checked),
            ("discrete", AdapterClass::Discrete, ShaderChecks::Trusted),
        ];
        if let Some(wanted) = std::env::var_os("WGPU_BATCH_NORM_PLANS") {
            let wanted: Vec<_> = wanted.to_str().unwrap_or_default().split(',').collect();
            plans.retain(|(name, ..)| wanted.contains(name));
            assert_eq!(plans.len(), wanted.len(), "WGPU_BATCH_NORM_PLANS names other plans: {wanted:?}");
        }
        let count = plans.len();
        // A device for each: where a driver compiles one pipeline of a device at a time, devices are compiled for side by side.
        (0..)
            .zip(plans)
            .flat_map(|(plan, (_, class, checks))| {
                support::open_all(None).into_iter().map(move |gpu| {
                    let descriptor = KernelsDescriptor { class: Some(class), checks, ..Default::default() };
                    let kernels = Kernels::with_descriptor(&gpu.device, &descriptor);
                    Target { kernels, checks, gpu: Arc::new(gpu), plan, plans: count, pooled: false }
                })
            })
            .collect()
    });
    assert!(!targets.is_empty(), "{}", support::NO_ADAPTER);
    if let Some(wanted) = std::env::var_os("WGPU_BATCH_NORM_ADAPTER") {
        let wanted = wanted.to_string_lossy();
        let found: Vec<_> = targets.iter().map(|target| target.gpu.to_string()).collect();
        assert!(found.iter().any(|name| name.contains(&*wanted)), "no {wanted} among {found:?}");
    }
    (targets, TURNS.get_or_init(|| targets.iter().map(|_| Turn::default()).collect()))
}

/// Held while a test uses a target.
#[derive(Default)]
struct Turn(Mutex<()>);

impl Turn {
    /// That another test failed in its turn says nothing about the target.
    fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks every target, side by side: software drivers compile a pipeline on one core, and most of a test is that.
pub fn on_every_target(check: impl Fn(&Target) + Sync) {
    let (targets, turns) = targets();
    let in_turn = |target, turn: &Turn| {
        let _turn = turn.take();
        check(target);
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let both = targets.iter().zip(turns);
        let threads: Vec<_> = both.map(|(target, turn)| scope.spawn(move || in_turn(target, turn))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    if let Some(panic) = outcomes.into_iter().find_map(Result::err) {
        std::panic::resume_unwind(panic);
    }
}

/// Checks all targets together.
pub fn on_all_targets(check: impl FnOnce(&[Target])) {
    let (targets, turns) = targets();
    // In one order, so that no two tests wait for each other.
    let _turns: Vec<_> = turns.iter().map(Turn::take).collect();
    check(targets);
}

/// As [`on_every_target`], once as planned and once in windows of 1 KiB.
pub fn on_every_target_and_in_windows(check: impl Fn(&Target) + Sync) {
    on_every_target(|target| {
        check(target);
        check(&target.in_windows(1 << 10));
    });
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let profile = self.kernels.profile();
        write!(f, "{}, planned as {:?}", self.gpu, profile.class)?;
        if profile.max_window_size < DeviceProfile::DEFAULT_MAX_WINDOW_SIZE {
            write!(f, " in windows of {}", profile.max_window_size)?;
        }
        if self.pooled {
            write!(f, ", all in one buffer")?;
        }
        Ok(())
    }
}
