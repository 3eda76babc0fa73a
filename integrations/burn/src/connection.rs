//! Which wgpu device and queue a Burn device computes on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use burn::backend::{CubeDevice, DispatchDevice};
use burn::tensor::wgpu::{WgpuInitError, WgpuSetup};
use burn::tensor::{Device, Tensor};

use crate::engine::Engine;
use crate::{Unserved, memory};

/// Burn keeps its wgpu device to itself, so what is known of it is kept here, one entry a Burn device.
static ENGINES: LazyLock<RwLock<HashMap<CubeDevice, Arc<Engine>>>> = LazyLock::new(RwLock::default);

/// Why [`init`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// Burn's wgpu runtime did not start.
    #[error(transparent)]
    Runtime(#[from] WgpuInitError),
    /// It started, but the device cannot be shared.
    #[error(transparent)]
    Unserved(#[from] Unserved),
}

/// Starts Burn's default wgpu device and connects it.
///
/// ```no_run
/// use burn_wgpu_batch_norm::{BatchNormConfig, init};
/// let device = init()?.autodiff();
/// let norm = BatchNormConfig::new(64).init(&device);
/// # Ok::<(), burn_wgpu_batch_norm::InitError>(())
/// ```
///
/// # Errors
/// [`InitError::Runtime`] if there is no adapter, or if the default device was used before: its setup is out of reach then.
/// With other options, use Burn's `Device::wgpu_options()…init_with_setup()` and [`connect`].
pub fn init() -> Result<Device, InitError> {
    let (device, setup) = Device::wgpu_options().init_with_setup()?;
    connect(&device, &setup)?;
    Ok(device)
}

/// Tells which wgpu device and queue a Burn device computes on, as `Device::wgpu_options().init_with_setup()` returned them or
/// `.setup(…)` was given them. Batch norms on a device that is not connected use Burn's own operations.
///
/// Connecting again replaces what was known, pipelines included.
///
/// # Errors
/// [`Unserved::Backend`] for a device of another backend, [`Unserved::ForeignSetup`] if the setup is that of another device.
pub fn connect(device: &Device, setup: &WgpuSetup) -> Result<(), Unserved> {
    let key = cube_device(device).ok_or(Unserved::Backend)?;
    let engine = Engine::new(&setup.device, &setup.queue);
    let probe = Tensor::<1>::zeros([1], &device.clone().inner());
    let probe = memory::primitive(probe).ok_or(Unserved::Backend)?;
    engine.check_ownership(&probe)?;
    ENGINES.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(engine));
    Ok(())
}

/// Drops what [`connect`] set up: pipelines, plans and the workspace. Batch norms on the device use Burn's own operations
/// from then on. Steps that are under way are completed.
pub fn disconnect(device: &Device) {
    if let Some(key) = cube_device(device) {
        ENGINES.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

/// The device below autodiff, if it is one of Burn's wgpu backend.
fn cube_device(device: &Device) -> Option<CubeDevice> {
    let mut device = device.as_dispatch();
    if let DispatchDevice::Autodiff(autodiff) = device {
        device = autodiff;
    }
    match device {
        DispatchDevice::Cube(cube @ CubeDevice::Wgpu(_)) => Some(cube.clone()),
        // Which backends there are is a matter of Burn's features.
        #[allow(unreachable_patterns, reason = "with Burn's wgpu feature alone there is no other")]
        _ => None,
    }
}

/// What serves a Burn device.
pub(crate) fn engine(device: &Device) -> Result<Arc<Engine>, Unserved> {
    engine_of(&cube_device(device).ok_or(Unserved::Backend)?)
}

/// What serves a device of the backend.
pub(crate) fn engine_of(device: &CubeDevice) -> Result<Arc<Engine>, Unserved> {
    let engines = ENGINES.read().unwrap_or_else(PoisonError::into_inner);
    engines.get(device).cloned().ok_or(Unserved::NotConnected)
}

/// Says in the log that Burn's operations are used, once a reason.
pub(crate) fn log_once(reason: &Unserved) {
    static LOGGED: LazyLock<RwLock<HashSet<String>>> = LazyLock::new(RwLock::default);
    let reason = reason.to_string();
    let known = LOGGED.read().unwrap_or_else(PoisonError::into_inner).contains(&reason);
    if !known {
        log::warn!("batch norm uses Burn's operations: {reason}");
        LOGGED.write().unwrap_or_else(PoisonError::into_inner).insert(reason);
    }
}
