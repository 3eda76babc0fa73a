//! The device path: pipelines, binding, recording. The only place that talks to wgpu.

mod batch_norm;
mod binding;
mod buffers;
mod kernels;
mod module;
mod parts;
mod scope;
mod step;

pub use batch_norm::BatchNorm;
pub use buffers::{
    AccumulateBuffers, ActivationState, BackwardBuffers, ConcludeBuffers, FoldBuffers, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, OutputBackwardBuffers, PartBuffers, PopulationBuffers, Renormalization, RunningStatistics,
    TrainingBuffers, ValidBuffers, ValidSource,
};
pub use kernels::{Kernels, KernelsDescriptor, OPTIONAL_FEATURES, ShaderChecks};
pub(crate) use scope::{scoped, write};
pub use step::{Step, TrainingStep};
