//! What can be refused, and why a device's own operations are used instead.

use burn::tensor::DType;

/// What a forward refuses: inputs that no implementation of batch norm could take.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input has no channel dimension.
    #[error("batch norm needs an input of rank 2 or more, got rank {rank}")]
    Rank {
        /// The input's rank.
        rank: usize,
    },
    /// The second dimension of the input is not the module's channel count.
    #[error("the module has {expected} channels, dimension 1 of the input is {actual}")]
    Channels {
        /// The channels of gamma.
        expected: usize,
        /// Dimension 1 of the input.
        actual: usize,
    },
    /// The residual differs from the input in shape.
    #[error("the residual has the shape {residual:?}, the input {input:?}")]
    ResidualShape {
        /// The input's shape.
        input: Vec<usize>,
        /// The residual's shape.
        residual: Vec<usize>,
    },
    /// Input and residual, or input and parameters, are on different devices.
    #[error("input, residual and parameters are not all on one device")]
    Devices,
    /// One value a channel in training, whose unbiased variance is undefined
    /// ([`RunningVariance::Unbiased`](crate::RunningVariance::Unbiased)).
    #[error("training on one value a channel: its unbiased variance is undefined")]
    OneSample,
    /// A batch without elements, of a rank whose batch norm others wait for
    /// ([`BatchNorm::with_ranks`](crate::BatchNorm::with_ranks)).
    #[error("a rank's share of a synchronised batch must have an element")]
    EmptyShare,
    /// Only from [`BatchNorm::try_forward`](crate::BatchNorm::try_forward), which does not go on with Burn's operations.
    #[error(transparent)]
    Unserved(#[from] Unserved),
}

/// Why the kernels do not serve a tensor. [`BatchNorm::forward`](crate::BatchNorm::forward) then goes on with Burn's own
/// operations and says so in the log, once a reason.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unserved {
    /// The tensor is not on Burn's wgpu backend.
    #[error("the tensor is not on Burn's wgpu backend")]
    Backend,
    /// The tensor's wgpu device is not known: [`connect`](crate::connect) or [`init`](crate::init).
    #[error("the Burn device was not connected: call burn_wgpu_batch_norm::connect with its WgpuSetup, or init")]
    NotConnected,
    /// The tensor is neither `f32` nor `f16` nor `bf16`.
    #[error("tensors of {0:?} are not served")]
    ElementType(DType),
    /// Gamma, beta or the running statistics are not `f32`; they are whatever the input is.
    #[error("gamma, beta and running statistics must be f32, found {0:?}")]
    ParameterType(DType),
    /// The setup given to [`connect`](crate::connect) is not the device's.
    #[error("the WgpuSetup is not that of the Burn device: {reason}")]
    ForeignSetup {
        /// What the device says.
        reason: String,
    },
    /// Burn did not hand out the buffers.
    #[error("Burn's wgpu runtime: {reason}")]
    Runtime {
        /// What the runtime says.
        reason: String,
    },
    /// The ranks of a batch norm could not exchange what each knows of the batch
    /// ([`BatchNorm::with_ranks`](crate::BatchNorm::with_ranks)).
    #[error("the exchange with the other ranks: {reason}")]
    Exchange {
        /// What went wrong, and at which rank where that is known.
        reason: String,
    },
    /// The planner or the device refuses.
    #[error(transparent)]
    Kernels(#[from] wgpu_batch_norm::Error),
}
