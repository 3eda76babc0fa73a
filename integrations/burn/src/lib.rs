//! Batch normalization for [Burn](https://burn.dev) by the kernels of [`wgpu_batch_norm`], on Burn's own wgpu device, queue
//! and buffers, without copies, with autodiff.
//!
//! [`BatchNorm`] is a module like Burn's own: the same fields, records, modes and results, and beyond that a choice of
//! the running variance ([`RunningVariance`]), a fused activation and residual ([`Activation`],
//! [`BatchNorm::forward_residual`]), and one batch over several devices ([`BatchNorm::with_ranks`]).
//!
//! ```no_run
//! use burn::tensor::{Distribution, Tensor};
//! use burn_wgpu_batch_norm::{Activation, BatchNormConfig, init};
//!
//! let device = init()?.autodiff(); // Burn's default wgpu device, and what is needed to share it
//! let norm = BatchNormConfig::new(64).with_activation(Activation::Relu).init(&device);
//! let x = Tensor::<4>::random([32, 64, 28, 28], Distribution::Default, &device);
//! let gradients = norm.forward(x).mean().backward();
//! let gamma_gradient = norm.gamma.grad(&gradients);
//! # Ok::<(), burn_wgpu_batch_norm::InitError>(())
//! ```
//!
//! # Devices
//!
//! Burn does not give away the wgpu device behind a `Device`, so a program says once which it is: [`init`] starts the default
//! one, [`connect`] takes any, with the `WgpuSetup` that Burn returned or was given. On devices that are not connected, on other
//! backends and for tensors that the kernels do not serve (`f64`, say), [`BatchNorm::forward`] uses Burn's operations and says so
//! in the log; [`BatchNorm::served`] tells why, and [`BatchNorm::try_forward`] returns it as an error.
//!
//! # How it works
//!
//! * An operation is a backend extension of Burn's for its CubeCL backend, its fusion and its autodiff: one node of the graph.
//!   With fusion it is a step of its own between fused kernels.
//! * Burn submits what it recorded for the tensors, the kernels are submitted to the same queue, and what Burn submits later
//!   comes after them. So a forward or a backward costs one more submission than Burn's operations, and ends the pass that Burn
//!   is recording; the device is never waited for, but by batch norms over ranks ([`BatchNorm::with_ranks`]). Burn's runtime has
//!   no way to record foreign commands among its own.
//! * Tensors are bound where they lie, slices of pooled buffers and views with channels last (as Burn's convolutions return
//!   them) included; results have the order of x. Views with gaps or other orders are copied first, by Burn, and so is a gradient
//!   that has not the order of x. Where nobody else holds x (inference) or dL/dy (backward), the result takes its place.
//! * Between forward and backward, x, γ and β are left to Burn's gradient checkpointing; beside them 16 bytes a channel are kept,
//!   and y or the residual if the activation's derivative needs it.
//! * Running statistics are new tensors at every step, since snapshots of a module (`valid`) share the old ones.
//!
//! # What panics
//!
//! As in Burn, a module panics on an input of the wrong shape; [`BatchNorm::try_forward`] does not. A device that is lost or out
//! of memory while an operation runs panics too: Burn's operations have no way to return that.
#![deny(missing_docs)]
#![warn(
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::must_use_candidate,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc
)]

mod autodiff;
mod connection;
mod cube;
mod engine;
mod error;
mod memory;
mod module;
mod ops;
mod ranks;
mod settings;

pub use connection::{InitError, connect, disconnect, init};
pub use error::{Error, Unserved};
pub use module::{BatchNorm, BatchNormConfig};
pub use ranks::Ranks;
pub use settings::{Activation, RunningVariance};
