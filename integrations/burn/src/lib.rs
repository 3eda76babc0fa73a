//! x
mod autodiff;
mod connection;
mod cube;
mod engine;
mod error;
mod memory;
mod module;
mod ops;
mod settings;

pub use connection::{InitError, connect, disconnect, init};
pub use error::{Error, Unserved};
pub use module::{BatchNorm, BatchNormConfig};
pub use settings::{Activation, RunningVariance};
