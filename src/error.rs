//! The one error type of the crate.

use crate::activation::{Activation, ActivationSource};
use crate::plan::Strategy;
use crate::problem::Layout;

/// Everything that this crate can refuse, raised before anything is recorded.
///
/// An error leaves every buffer, plan and step as it was: the caller can correct the input and call again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape has a rank that batch normalization is not defined for.
    #[error("a tensor of rank {rank} is not supported: give 2 to 5 dimensions, or use `Shape::flat`")]
    UnsupportedRank {
        /// The number of dimensions given.
        rank: usize,
    },
    /// The number of elements of a shape does not fit the index arithmetic.
    #[error("the shape {shape:?} has more than 2^63 - 1 elements, or over 2^32 - 1 channels or channels of segments")]
    ShapeTooLarge {
        /// The dimensions given.
        shape: Vec<usize>,
    },
    /// The channel dimension of a shape is not what the descriptor says.
    #[error(
        "the shape has {actual} channels under {layout:?}, but the descriptor says {expected}: check `layout` and `channels`"
    )]
    ChannelMismatch {
        /// Channels in the descriptor.
        expected: u32,
        /// Channels in the shape.
        actual: u32,
        /// The layout that the shape was read with.
        layout: Layout,
    },
    /// The first dimension does not fall into equal sub-batches.
    #[error(
        "{length} samples cannot be cut into {segments} equal sub-batches: choose a divisor, or give the rest a plan of its own"
    )]
    UnevenSegments {
        /// The length of the first dimension.
        length: usize,
        /// The sub-batches asked for.
        segments: usize,
    },
    /// A dimension that the shape does not have, or that holds the channels.
    #[error("axis {axis} of a tensor of rank {rank} does not exist, or holds the channels or the sequences")]
    InvalidAxis {
        /// The axis given.
        axis: usize,
        /// The number of dimensions.
        rank: usize,
    },
    /// More segments than one invocation adds up. WGSL drivers end loops that are too long, some without a word.
    #[error(
        "{segments} segments are more than {most}: cut the batch into fewer, plan it in several steps, or let segments have \
         running statistics of their own"
    )]
    TooManySegments {
        /// The segments asked for.
        segments: u64,
        /// The most that are served.
        most: u64,
    },
    /// More windows than a plan holds.
    #[error("{windows} windows are more than {most}: let dispatches go over more bytes (`max_window_size`)")]
    TooManyWindows {
        /// The windows that the tensor would take.
        windows: u64,
        /// The most that are served.
        most: u64,
    },
    /// More elements in one batch than moments count.
    #[error("{count} elements a channel in one batch are more than moments count: accumulate it in several batches")]
    TooManyForMoments {
        /// Elements of a channel, or of an instance.
        count: u64,
    },
    /// More parts of a batch at once than one invocation merges, or none at all.
    #[error("{parts} parts of a batch are not merged at once: give 1 to {most}, and merge more in groups first")]
    TooManyParts {
        /// The parts given.
        parts: u64,
        /// The most that are served.
        most: u64,
    },
    /// Backward over a part of a batch without the statistics of the whole.
    #[error(
        "backward over a part of a batch needs `saved`: its own input does not tell the statistics of the whole batch"
    )]
    MissingSavedStatistics,
    /// Folding with statistics for every segment, of which a layer's weights could take one only.
    #[error("a layer has one set of weights, and segments have several statistics: plan the weights without segments")]
    SegmentedFold,
    /// Segments along a dimension that neither is the first one nor stands beside the channels.
    #[error(
        "segments along axis {axis} are not served: it must be the first dimension or stand right beside the channels, and \
         not hold them"
    )]
    SegmentsNotServed {
        /// The axis given.
        axis: usize,
    },
    /// A 16-bit tensor whose segments share words, so that no workgroup can write its own alone.
    #[error(
        "a segment of {elements} elements of 16 bits, no multiple of 4, with rows of {inner}, no multiple of 4, is not served: \
         take f32, or another number of segments"
    )]
    SharedWords {
        /// Elements of a segment.
        elements: u64,
        /// Elements of a row.
        inner: u64,
    },
    /// A mask was asked of an inference over a padded batch, whose kernels have no binding left for it.
    #[error(
        "inference with `valid` cannot write `activation_mask`: let a backward through frozen statistics take the derivative \
         from the output, or recompute it"
    )]
    PaddedActivationMask,
    /// Batch renormalization without the running statistics that it renormalises to.
    #[error("batch renormalization needs `running`, the statistics that it corrects the batch towards")]
    MissingRunningStatistics,
    /// The descriptor has no channels.
    #[error("`channels` is 0: batch normalization needs at least one channel")]
    NoChannels,
    /// Epsilon is negative, infinite or not a number.
    #[error("epsilon is {epsilon}: it must be finite and at least 0 (PyTorch and ONNX use 1e-5, Keras 1e-3)")]
    InvalidEpsilon {
        /// The value given.
        epsilon: f64,
    },
    /// The momentum is infinite or not a number.
    #[error("momentum is {momentum}: it must be finite (PyTorch uses 0.1 as the weight of the new batch)")]
    InvalidMomentum {
        /// The value given.
        momentum: f64,
    },
    /// The slope of a leaky `ReLU` is negative, infinite or not a number.
    #[error("the slope is {slope}: it must be finite and at least 0 (PyTorch uses 0.01)")]
    InvalidSlope {
        /// The value given.
        slope: f64,
    },
    /// The derivative of the activation does not follow from what backward was given.
    #[error("backward cannot take the derivative of {activation} from {from}: give `ActivationState::Recompute`")]
    ActivationSourceNotServed {
        /// The descriptor's activation.
        activation: Activation,
        /// What backward was given.
        from: ActivationSource,
    },
    /// The residual's gradient was asked for through an activation that is recomputed without the residual. Devices refuse
    /// what is most likely a slice that was forgotten; the reference gives the gradient before the activation.
    #[error(
        "`residual_gradient` through a recomputed activation needs the residual: give `ActivationState::Recompute` the tensor \
         that forward added, or give the activation's derivative another source"
    )]
    MissingResidual,
    /// Backward from the output was asked for with an activation that has no inverse.
    #[error(
        "{activation} has no inverse, so backward needs x: take `backward`, or the identity or a leaky ReLU with a slope"
    )]
    NotInvertible {
        /// The descriptor's activation.
        activation: Activation,
    },
    /// Backward from the output met a channel whose output does not depend on its input. On devices, which cannot be asked,
    /// the channel's dγ is 0 instead.
    #[error(
        "gamma of channel {channel} is 0, so the output knows nothing of x and dγ cannot be had from it: take `backward`"
    )]
    ZeroGamma {
        /// The first such channel.
        channel: usize,
    },
    /// A mask was asked of forward for an activation whose derivative does not follow from it.
    #[error("{activation} has no use for `activation_mask`: its derivative is not a function of a sign")]
    UselessActivationMask {
        /// The descriptor's activation.
        activation: Activation,
    },
    /// An in-place input gradient replaces the output gradient, so nothing can be added to it.
    #[error(
        "`input_gradient` lies over `output_gradient` and cannot accumulate: overwrite it, or give it a slice of its own"
    )]
    InPlaceAccumulation,
    /// One value per channel, or per channel of a segment, has no variance to train on.
    #[error(
        "training needs more than one value per channel (of every segment): with one, the variance is 0 and the unbiased \
         variance undefined; use a larger batch, larger segments, inference, or set `one_sample` in the convention"
    )]
    OneSample,
    /// A batch without elements was given where the convention refuses it.
    #[error("the batch is empty and the convention's `empty_batch` is `Error`")]
    EmptyBatch,
    /// The gradient of gamma, or that of an activation that is recomputed, was asked for without the input that it depends
    /// on.
    #[error(
        "`gamma_gradient`, and an activation that backward recomputes, need `input`: give the tensor that forward read, or \
         leave the gradient of gamma out and give the activation's derivative another source"
    )]
    MissingInput,
    /// A cumulative average without its counter.
    #[error("a cumulative average needs `batches_tracked`, the u32 counter of batches seen so far")]
    MissingBatchesTracked,
    /// A backward pass of which nothing was asked.
    #[error(
        "backward was asked for no gradient: give at least one of `input_gradient`, `gamma_gradient`, `beta_gradient`, \
         `residual_gradient`"
    )]
    NoGradientRequested,
    /// A plan made for another batch norm (other channels, layout or convention) or another device.
    #[error(
        "the plan was made for another descriptor or for another device's limits: plan with the batch norm that binds"
    )]
    PlanMismatch,
    /// A buffer slice has not exactly the bytes that its role needs.
    #[error("`{binding}` is {actual} bytes long, it must be {expected}{}", told_by(binding))]
    WrongSize {
        /// The field that the slice was given in.
        binding: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A slice of host memory, given to the reference or to a layer, has not as many values as its role needs.
    #[error("`{binding}` has {actual} values, it must have {expected}")]
    WrongLength {
        /// The field that the slice was given in.
        binding: &'static str,
        /// Values needed.
        expected: u64,
        /// Values given.
        actual: u64,
    },
    /// A slice is too short for a role that accepts longer ones.
    #[error("`{binding}` is {actual} bytes long, it must be at least {required}{}", told_by(binding))]
    TooSmall {
        /// The field that the slice was given in.
        binding: &'static str,
        /// Bytes needed.
        required: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A buffer cannot be bound as storage.
    #[error("the buffer of `{binding}` lacks `BufferUsages::STORAGE`")]
    MissingStorageUsage {
        /// The field that the slice was given in.
        binding: &'static str,
    },
    /// A slice starts where the device cannot bind it.
    #[error(
        "`{binding}` starts at byte {offset}, which is not a multiple of {alignment} (`min_storage_buffer_offset_alignment`)"
    )]
    MisalignedOffset {
        /// The field that the slice was given in.
        binding: &'static str,
        /// Byte offset given.
        offset: u64,
        /// Alignment that the device asks for, at least 16.
        alignment: u64,
    },
    /// Two slices share bytes, and at least one of them is written.
    #[error("`{first}` and `{second}` overlap, and at least one of them is written: give them separate ranges")]
    OverlappingBuffers {
        /// One field.
        first: &'static str,
        /// The other field.
        second: &'static str,
    },
    /// A strategy that was asked for cannot serve the shape, or what is fused into the operation, within the device's limits and
    /// the workspace's bound (see [`Plan::workspace_size`](crate::Plan::workspace_size)).
    #[error(
        "`{strategy}` cannot serve this shape, or what the operation is given beside it, on this device: take one of \
         `Plan::strategies`, a split where there is a residual, a mask, padding or renormalization, or leave the choice open"
    )]
    StrategyNotServed {
        /// What was asked for.
        strategy: Strategy,
    },
    /// A limit of the device, or of the plans for it, is too low for the operation.
    #[error(
        "the device's `{limit}` is {available}, this needs {required}: request the adapter's limits or use a smaller tensor"
    )]
    LimitExceeded {
        /// The limit, by its name in `wgpu::Limits`.
        limit: &'static str,
        /// What the operation needs.
        required: u64,
        /// What the device has.
        available: u64,
    },
    /// A state lacks what the layer has.
    #[error(
        "the state has no {part}, which the layer has: describe the layer without it (`BatchNormLayerDescriptor`), or add it to \
         the state"
    )]
    MissingState {
        /// The field of `LayerState`.
        part: &'static str,
    },
    /// A state has what the layer lacks.
    #[error(
        "the state has {part}, which the layer has not: describe the layer with it (`BatchNormLayerDescriptor`), or take it from \
         the state"
    )]
    UnexpectedState {
        /// The field of `LayerState`.
        part: &'static str,
    },
    /// Bytes that are no safetensors file, or what cannot be written as one.
    #[error("the state is no safetensors file: {message}")]
    StateFile {
        /// What is wrong with it.
        message: String,
    },
    /// A file without a tensor that a state needs.
    #[error(
        "the file has no tensor `{name}`: give the module's path in PyTorch's `state_dict` as the prefix, without a part's name"
    )]
    MissingTensor {
        /// The name in the file.
        name: String,
    },
    /// A tensor of a file has a type that is not read.
    #[error("the tensor `{name}` is of type {actual}, it must be {expected}")]
    TensorType {
        /// The name in the file.
        name: String,
        /// Its type, by its name in safetensors.
        actual: String,
        /// Types that are read.
        expected: &'static str,
    },
    /// A tensor of a file has a shape that no batch norm has.
    #[error("the tensor `{name}` has the shape {shape:?}, it must have {expected}: is it a batch norm's?")]
    TensorShape {
        /// The name in the file.
        name: String,
        /// Its dimensions.
        shape: Vec<usize>,
        /// What it must have.
        expected: &'static str,
    },
    /// A value of a file is outside what a layer can hold.
    #[error("value {index} of the tensor `{name}` does not fit {target}")]
    TensorValue {
        /// The name in the file.
        name: String,
        /// Which value.
        index: usize,
        /// The type that it is converted to.
        target: &'static str,
    },
    /// A buffer cannot be copied to.
    #[error("the buffer of `{binding}` lacks `BufferUsages::COPY_DST`")]
    MissingCopyUsage {
        /// The argument that the slice was given in.
        binding: &'static str,
    },
    /// A slice starts where nothing can be copied to.
    #[error("`{binding}` starts at byte {offset}, which is not a multiple of 4 (`wgpu::COPY_BUFFER_ALIGNMENT`)")]
    MisalignedCopy {
        /// The argument that the slice was given in.
        binding: &'static str,
        /// Byte offset given.
        offset: u64,
    },
    /// The device had no memory left for an object of a step. Nothing was kept of the attempt: free some memory and bind again.
    #[error("the device is out of memory for {object}: free some and call again")]
    OutOfMemory {
        /// What was being created.
        object: &'static str,
    },
    /// The device is lost, or was destroyed. wgpu tells why to the callback of `Device::set_device_lost_callback`.
    #[error(
        "the device is lost: open another one and make kernels, buffers and steps anew on it (plans can be kept if its limits \
         are the same)"
    )]
    DeviceLost,
    /// wgpu refused to create an object, for example for a buffer of another device.
    #[error("wgpu refused to create {object}: {message}")]
    Device {
        /// What was being created.
        object: &'static str,
        /// wgpu's own message.
        message: String,
    },
}

/// Where a program finds the size of a slice, for messages.
fn told_by(binding: &str) -> &'static str {
    match binding {
        "input"
        | "output"
        | "residual"
        | "activation.residual"
        | "activation.output"
        | "weight"
        | "folded_weight"
        | "output_gradient"
        | "input_gradient"
        | "residual_gradient" => " (`Plan::tensor_size`)",
        "gamma" | "beta" | "gamma_gradient" | "beta_gradient" | "bias" | "folded_bias" => " (`Plan::vector_size`)",
        "running.mean" | "running.variance" | "running_mean" | "running_variance" => " (`Plan::running_size`)",
        "activation_mask" | "activation.mask" => " (`Plan::mask_size`)",
        "saved" => " (`Plan::saved_size`)",
        "health" => " (`Plan::health_size`)",
        "valid" => " (`Plan::valid_size`)",
        "source.lengths" => " (4 a sequence)",
        "source.flags" => " (`Plan::positions_size`)",
        "renormalization" | "renormalization.saved" => " (`Plan::renormalization_size`)",
        "moments" => " (`Plan::moments_size`, of parts of a batch `Plan::part_moments_size`)",
        "parts" | "merged" => " (`Plan::part_moments_size` a part)",
        "sums" => " (`Plan::gradient_sums_size` a part)",
        "workspace" => " (`Plan::workspace_size`; a layer sees to it in `BatchNormLayer::plan`)",
        "staging" | "bytes" => " (`BatchNormLayer::state_size`)",
        _ => "",
    }
}
