//! The operations that backends implement, and their tensors.

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, backend_extension};

use crate::settings::Settings;

/// A tensor, or none.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum Optional<B: Backend> {
    /// None.
    Absent,
    /// A tensor.
    Present(FloatTensor<B>),
}

/// What normalises and transforms.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct Inputs<B: Backend> {
    /// x, `[N, C, ...]`.
    pub(crate) input: FloatTensor<B>,
    /// z, of x's shape.
    #[extension_type]
    pub(crate) residual: Optional<B>,
    /// γ, `[C]`.
    pub(crate) gamma: FloatTensor<B>,
    /// β, `[C]`.
    pub(crate) beta: FloatTensor<B>,
    /// `[C]`. Not written: training returns new ones.
    pub(crate) running_mean: FloatTensor<B>,
    /// `[C]`. Not written: training returns new ones.
    pub(crate) running_variance: FloatTensor<B>,
}

/// What training forward returns.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct Trained<B: Backend> {
    /// y, of x's shape.
    pub(crate) output: FloatTensor<B>,
    /// The new running mean, `[C]`.
    pub(crate) running_mean: FloatTensor<B>,
    /// The new running variance, `[C]`.
    pub(crate) running_variance: FloatTensor<B>,
    /// `[C, 4]`, as [`wgpu_batch_norm::ChannelStatistics`].
    pub(crate) saved: FloatTensor<B>,
    /// Of a batch over ranks, `[C, 4]`, as [`wgpu_batch_norm::ChannelMoments`] of all of it.
    #[extension_type]
    pub(crate) moments: Optional<B>,
}

/// What forward normalised with.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum Statistics<B: Backend> {
    /// The batch's, as training saved them.
    Batch(FloatTensor<B>),
    /// Those of a batch over ranks.
    Ranks {
        /// As training saved them.
        saved: FloatTensor<B>,
        /// The moments of the whole batch.
        moments: FloatTensor<B>,
    },
    /// Running ones, constants to backward.
    Running {
        /// `[C]`.
        mean: FloatTensor<B>,
        /// `[C]`.
        variance: FloatTensor<B>,
    },
}

/// What backward reads.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct BackwardInputs<B: Backend> {
    /// x.
    pub(crate) input: FloatTensor<B>,
    /// dL/dy.
    pub(crate) output_gradient: FloatTensor<B>,
    /// γ.
    pub(crate) gamma: FloatTensor<B>,
    /// β.
    pub(crate) beta: FloatTensor<B>,
    /// What forward normalised with.
    #[extension_type]
    pub(crate) statistics: Statistics<B>,
    /// y where the activation's derivative follows from it, else the residual that forward added.
    #[extension_type]
    pub(crate) companion: Optional<B>,
}

/// What backward returns.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct InputGradients<B: Backend> {
    /// dL/dx.
    pub(crate) input: FloatTensor<B>,
    /// dL/dz, where it was asked for.
    #[extension_type]
    pub(crate) residual: Optional<B>,
    /// dL/dγ.
    pub(crate) gamma: FloatTensor<B>,
    /// dL/dβ.
    pub(crate) beta: FloatTensor<B>,
}

/// Batch norm as operations of a backend. [`BatchNorm`](crate::BatchNorm) calls them where they are served.
#[backend_extension(Cube, Autodiff, Fusion: cfg(feature = "fusion"))]
pub(crate) trait BatchNormOps: Backend {
    /// Training forward.
    #[fusion(meta = trained_metadata)]
    fn wgpu_batch_norm_training(#[extension_type] inputs: Inputs<Self>, settings: Settings) -> Trained<Self>;

    /// Inference.
    #[fusion(meta = inferred_metadata)]
    fn wgpu_batch_norm_inference(#[extension_type] inputs: Inputs<Self>, settings: Settings) -> FloatTensor<Self>;

    /// Backward through either. `residual`: whether dL/dz is asked for.
    #[fusion(meta = gradients_metadata)]
    fn wgpu_batch_norm_backward(
        #[extension_type] inputs: BackwardInputs<Self>,
        settings: Settings,
        residual: bool,
    ) -> InputGradients<Self>;
}

#[cfg(feature = "fusion")]
fn trained_metadata(inputs: &InputsMetadata, settings: &Settings) -> TrainedMetadata {
    let channels = inputs.gamma.shape[0];
    let records = || TensorSpec::new([channels, 4].into(), inputs.gamma.dtype);
    TrainedMetadata {
        output: inputs.input.clone(),
        running_mean: inputs.running_mean.clone(),
        running_variance: inputs.running_variance.clone(),
        saved: records(),
        moments: match settings.synchronised {
            Some(_) => OptionalMetadata::Present(records()),
            None => OptionalMetadata::Absent,
        },
    }
}

#[cfg(feature = "fusion")]
fn inferred_metadata(inputs: &InputsMetadata, _settings: &Settings) -> TensorSpec {
    inputs.input.clone()
}

#[cfg(feature = "fusion")]
fn gradients_metadata(
    inputs: &BackwardInputsMetadata,
    _settings: &Settings,
    residual: &bool,
) -> InputGradientsMetadata {
    InputGradientsMetadata {
        input: inputs.input.clone(),
        residual: if *residual { OptionalMetadata::Present(inputs.input.clone()) } else { OptionalMetadata::Absent },
        gamma: inputs.gamma.clone(),
        beta: inputs.beta.clone(),
    }
}
