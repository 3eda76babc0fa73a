//! Batch normalization for GPU training code: WGSL compute kernels that record into your own wgpu pass.
//!
//! The crate gives training forward (per-channel mean and variance, normalise, scale-shift, running statistics, and a residual
//! and an activation if you like),
//! inference from running statistics, and backward through training or frozen statistics, for fully connected,
//! convolutional and recurrent layers. You keep the device, the queue, the memory and the submission: nothing here
//! submits, polls, reads back or allocates while recording.
//!
//! # The way through
//!
//! [`BatchNormDescriptor`] → [`BatchNorm`] → [`Plan`] (per [`Shape`]) → a bound step (per set of buffers) → record.
//!
//! ```no_run
//! use wgpu_batch_norm::{BatchNorm, BatchNormDescriptor, Shape, TrainingBuffers, wgpu};
//!
//! # fn demo(device: &wgpu::Device, queue: &wgpu::Queue, x: &wgpu::Buffer, y: &wgpu::Buffer) -> Result<(), wgpu_batch_norm::Error> {
//! let bn = BatchNorm::new(device, &BatchNormDescriptor { channels: 64, ..Default::default() })?;
//! let plan = bn.plan(&Shape::new(&[32, 64, 56, 56])?)?;
//! let workspace = device.create_buffer(&wgpu::BufferDescriptor {
//!     label: None,
//!     size: plan.workspace_size(),
//!     usage: wgpu::BufferUsages::STORAGE,
//!     mapped_at_creation: false,
//! });
//! let step = bn.bind_training(&plan, &TrainingBuffers::new(x.slice(..), y.slice(..), workspace.slice(..)))?;
//! let mut encoder = device.create_command_encoder(&Default::default());
//! step.record(&mut encoder.begin_compute_pass(&Default::default())); // every training step: nothing is allocated here
//! queue.submit([encoder.finish()]);
//! # Ok(()) }
//! ```
//!
//! # What is where
//!
//! * Layouts, shapes and the problem they come down to: [`Layout`], [`Shape`], [`Problem`].
//! * Statistics for parts of a batch (ghost batch norm, instance norm, time steps): [`Shape::with_sub_batches`],
//!   [`Shape::with_segments_along`], [`Segmentation`], [`SegmentRunning`].
//! * Sequences of unequal length and other padding: [`BatchNorm::bind_valid`].
//! * One batch over several buffers, devices or processes: [`BatchNorm::bind_part_moments`] and what follows it; how its records
//!   get from one device or process to the other: [`exchange`].
//! * What frameworks disagree about: [`Convention`], with constructors for PyTorch, ONNX, Keras, Flax and Burn.
//! * A layer that owns its parameters, statistics and workspace, with PyTorch's names for its state: [`BatchNormLayer`],
//!   [`LayerState`].
//! * Every operation in f64 on the CPU, the specification of the kernels: [`mod@reference`].
//! * Which kernels run, for whom it concerns: [`plan`] and [`shader`].
//!
//! # Memory
//!
//! Tensors are row-major and of the descriptor's [`ElementType`]; vectors have one `f32` a channel; saved statistics are one [`ChannelStatistics`] a
//! channel. [`Plan`] tells every size in bytes, the workspace's included. Slices may lie in pooled buffers: they must
//! start at the device's storage offset alignment, and nothing written may overlap anything else, unless it takes exactly the
//! place of the tensor that it replaces (y of x, dx of dy).
//!
//! Tensors may be larger than a storage binding of the device: they are worked on in windows, exactly. No dispatch goes over
//! more bytes of a tensor than [`KernelsDescriptor::max_window_size`], so that no desktop's watchdog fires.
//!
//! # What cannot be combined
//!
//! | | with | |
//! |---|---|---|
//! | [`ActivationState::Output`] or `Mask` | `Silu`, `Gelu`, `GeluTanh` | [`Error::ActivationSourceNotServed`]: recompute |
//! | `activation_mask` in forward | `Silu`, `Gelu`, `GeluTanh` | [`Error::UselessActivationMask`] |
//! | `residual_gradient` | an activation recomputed without the residual | [`Error::MissingResidual`] |
//! | `input` left out of a backward through frozen statistics | `gamma_gradient`, or a recomputed activation | [`Error::MissingInput`] |
//! | [`BatchNorm::bind_backward_from_output`] | ReLU, leaky ReLU with a slope of 0, `Silu`, `Gelu`, `GeluTanh` | [`Error::NotInvertible`]: keep x |
//! | the same | a residual, or statistics that were not saved | not in the type |
//! | the same | a gamma of 0 | the reference: [`Error::ZeroGamma`]; a device, which cannot be asked: that channel's dγ is 0 |
//! | dx in the place of dy | accumulation | [`Error::InPlaceAccumulation`] |
//! | y in the place of z, dz in the place of dy | | [`Error::OverlappingBuffers`] |
//! | a pinned strategy of one dispatch | a residual or its gradient, a mask, or a derivative from the output | [`Error::StrategyNotServed`] |
//! | the same | padding, batch renormalization, or a tensor in windows | [`Error::StrategyNotServed`] |
//! | the same, in a backward through frozen statistics | a recomputed activation, on a device with 8 storage buffers | [`Error::StrategyNotServed`] |
//! | a pinned map by rows | 16-bit tensors whose rows are no multiple of four elements | [`Error::StrategyNotServed`] |
//! | a pinned walk by columns | segments of no multiple of four elements | [`Error::StrategyNotServed`] |
//! | different pins of forward and backward | a tensor in windows | [`Error::StrategyNotServed`] |
//! | 16-bit tensors whose rows share words | windows smaller than four outer steps | [`Error::LimitExceeded`] |
//! | padding | bits of elements that do not fit a binding, or 2^32 of them | [`Error::LimitExceeded`] |
//! | accumulating moments | 2^32 elements a channel in one batch | [`Error::TooManyForMoments`] |
//! | a cumulative average | no `batches_tracked` | [`Error::MissingBatchesTracked`] |
//! | batch renormalization | no running statistics | [`Error::MissingRunningStatistics`] |
//! | the same | inference, backward through frozen statistics, backward from the output | not in the type |
//! | [`BatchNormLayer::bind_forward`], which binds both modes | what either of them refuses | its error: bind the other alone |
//! | `activation_mask` of inference | padding | [`Error::PaddedActivationMask`] |
//! | segments of 16-bit elements | segments and rows that are no multiple of four elements | [`Error::SharedWords`] |
//! | segments along a dimension | neither the first one nor beside the channels | [`Error::SegmentsNotServed`] |
//! | sub-batches | a number of samples that they do not divide | [`Error::UnevenSegments`] |
//! | more than 60,000 segments | shared running statistics | [`Error::TooManySegments`] |
//! | backward of a part of a batch | statistics that were not saved | [`Error::MissingSavedStatistics`] |
//! | more than 2,048 parts of a batch | merged at once | [`Error::TooManyParts`]: merge groups first |
//! | folding | segments with running statistics of their own | [`Error::SegmentedFold`] |
//! | one valid element in an instance, which a device cannot refuse | | running statistics are left as they are, unless `one_sample` says otherwise |
//!
//! Everything else can: every layout, element type, activation, optional part and mode with every other.
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
    FrozenBackwardBuffers, Gradient, InferenceBuffers, Kernels, KernelsDescriptor, OutputBackwardBuffers, PartBuffers,
    PopulationBuffers, Renormalization, RunningStatistics, ShaderChecks, Step, TrainingBuffers, TrainingStep,
    ValidBuffers, ValidSource,
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

/// The examples of `docs/synchronised.md`, compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../docs/synchronised.md")]
struct SynchronisedDoctests;

/// The README's example, compiled as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
