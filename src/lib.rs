//! Batch normalization for GPU training code: WGSL compute kernels that record into your own wgpu pass.
//!
//! Training forward, inference and backward, with running statistics and with a residual and an activation fused if you like,
//! for fully connected, convolutional and recurrent layers. You keep the device, the queue, the memory and the submission:
//! nothing here submits, polls, reads back or allocates while recording. Every operation is verified against an f64
//! [`reference`](mod@reference).
#![doc = include_str!("../docs/pictures/problem.svg")]
//!
//! # A training step
//!
//! ```no_run
//! use wgpu_batch_norm::{
//!     BackwardBuffers, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Error, Gradient, Shape, wgpu,
//! };
//!
//! # fn demo(device: &wgpu::Device, pass: &mut wgpu::ComputePass<'_>, [x, y, dy, dx]: [&wgpu::Buffer; 4]) -> Result<(), Error> {
//! let batch_norm = BatchNormDescriptor { channels: 64, ..Default::default() };
//! let layer = BatchNormLayer::new(device, &BatchNormLayerDescriptor { batch_norm, ..Default::default() })?;
//! let plan = layer.plan(&Shape::new(&[32, 64, 56, 56])?)?; // tells the size of every tensor
//! let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..)))?;
//! let backward = layer.bind_backward(&forward, &BackwardBuffers {
//!     input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
//!     ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
//! })?;
//!
//! forward.record(pass); // every training step: nothing is allocated here
//! backward.record(pass);
//! # Ok(()) }
//! ```
//!
//! The layer owns gamma, beta, their gradients, running statistics and scratch. Without it, the same steps take buffers of yours:
//! [`BatchNormDescriptor`] → [`BatchNorm`] → [`Plan`] (per [`Shape`]) → a bound step (per set of buffers) → record. The planner
//! takes one of three strategies by shape and class of machine: one dispatch that reads the tensor once, one that reads it twice, or
//! two that share every channel among workgroups.
//!
//! [`guide::first_steps`] is a whole program with numbers to compare with.
//!
//! # What it does to training
//!
//! <style>.figure svg { width: 100%; height: auto }</style>
//! <div class="figure">
#![doc = include_str!("../docs/gallery/train_digits.svg")]
//! </div>
//!
//! Figure 1 of the [paper](https://arxiv.org/abs/1502.03167) on handwritten digits, by `cargo run --release --example train_digits`:
//! test accuracy with and without batch norm, and where the inputs of the last hidden sigmoid lie over training.
//!
//! # Where to read on
//!
//! | | |
//! |---|---|
//! | in a training loop: evaluation, micro-batches, recurrent networks | [`guide::training_loop`] |
//! | shapes, [`Layout`], element types, statistics for parts of a batch | [`guide::layouts`] |
//! | coming from PyTorch, ONNX, Keras, Flax or Burn: names, defaults, state files | [`guide::porting`], [`Convention`] |
//! | sizes of buffers, in place, keeping less, tensors beyond a binding | [`guide::memory`] |
//! | errors, symptoms, timing, spans | [`guide::debugging`], [`Error`] |
//! | bits that repeat | [`guide::determinism`] |
//! | what is not built, what cannot be combined | [`guide::limits`] |
//! | the formulas | [`guide::derivation`] |
//! | one batch over several devices | [`guide::synchronised`], [`exchange`] |
//! | sequences of unequal length and other padding | [`BatchNorm::bind_valid`] |
//! | which kernels run, for whom it concerns | [`plan`] and [`shader`] |
//!
//! # Features
//!
//! | | |
//! |---|---|
//! | `safetensors` | states of layers in files, under PyTorch's names: [`LayerState`] |
//! | `half` | `half::f16` and `half::bf16` as elements of the reference |
//! | `mpi` | exchanges between the ranks of an MPI job |
//! | `tracing` | spans of planning, binding, pipelines and recording: [`guide::debugging`] |
//!
//! None is on by default. Which of wgpu's backends there are, the linking program chooses; the library enables `wgsl` alone.
//!
//! # Errors
//!
//! Everything is checked when a plan or a step is made; [`Error`] says what to change. Recording cannot fail. On a lost device
//! it has no effect, and binding is [`Error::DeviceLost`]: plans serve on another device with the same limits, everything else
//! is made anew there.
#![deny(missing_docs)]
#![warn(
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::must_use_candidate,
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc
)]

mod activation;
pub mod convention;
mod descriptor;
mod element;
mod error;
pub mod exchange;
mod gpu;
#[cfg(any(doc, doctest))]
pub mod guide;
mod layer;
pub mod plan;
mod problem;
pub mod reference;
pub mod shader;
mod statistics;
mod trace;

pub use activation::{Activation, ActivationCost, ActivationSource};
pub use convention::{
    Convention, EmptyBatchPolicy, Momentum, NonFinitePolicy, OneSamplePolicy, RunningVariance, SegmentRunning,
};
pub use descriptor::BatchNormDescriptor;
pub use element::ElementType;
pub use error::Error;
pub use gpu::{
    AccumulateBuffers, ActivationState, BackwardBuffers, BatchNorm, ConcludeBuffers, FoldBuffers,
    FrozenBackwardBuffers, Gradient, InferenceBuffers, Kernels, KernelsDescriptor, OPTIONAL_FEATURES,
    OutputBackwardBuffers, PartBuffers, PopulationBuffers, Renormalization, RunningStatistics, ShaderChecks, Step,
    TrainingBuffers, TrainingStep, ValidBuffers, ValidSource,
};
#[cfg(feature = "safetensors")]
pub use layer::StateTensor;
pub use layer::{
    BatchNormLayer, BatchNormLayerDescriptor, LayerBackward, LayerForward, LayerMode, LayerParameter, LayerState,
    RunningState,
};
/// The MPI bindings that this crate is built with, so that a program need not match versions.
#[cfg(feature = "mpi")]
pub use mpi;
pub use plan::{AdapterClass, DeviceProfile, Family, Operation, Plan, Strategies, Strategy};
pub use problem::{Layout, Problem, Segmentation, SequenceAxes, Shape};
/// The safetensors that this crate is built with, so that a program need not match versions.
#[cfg(feature = "safetensors")]
pub use safetensors;
pub use statistics::{ChannelGradientSums, ChannelHealth, ChannelMoments, ChannelRenormalization, ChannelStatistics};
/// The wgpu that this crate is built with, so that a program need not match versions.
pub use wgpu;

/// The README's example, compiled as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
