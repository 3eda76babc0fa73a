//! What a layer has learned, on the host.

/// The parameters and running statistics of a layer, as host data.
///
/// What a layer does not have is absent. Values are f32, as on the device; with the feature `safetensors` a state is read from
/// and written to files under PyTorch's names.
#[derive(Clone, Debug, Default, PartialEq)]
#[doc(alias = "state_dict")]
pub struct LayerState {
    /// γ, C values; PyTorch's `weight`.
    #[doc(alias = "weight")]
    pub gamma: Option<Vec<f32>>,
    /// β, C values; PyTorch's `bias`.
    #[doc(alias = "bias")]
    pub beta: Option<Vec<f32>>,
    /// What inference normalises with.
    pub running: Option<RunningState>,
}

/// Running statistics on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunningState {
    /// C values, or one an instance where segments have their own; PyTorch's `running_mean`.
    #[doc(alias = "running_mean")]
    pub mean: Vec<f32>,
    /// As many; PyTorch's `running_var`.
    ///
    /// Whether they average unbiased variances, as PyTorch's do, or population variances, as those of ONNX, Keras, Flax and Burn
    /// do, no file says. Nothing is converted: inference takes them as they are, and how training goes on is up to the
    /// layer's [`Convention::running_variance`](crate::Convention::running_variance).
    #[doc(alias = "running_var")]
    pub variance: Vec<f32>,
    /// Batches seen so far; PyTorch's `num_batches_tracked`.
    #[doc(alias = "num_batches_tracked")]
    pub batches_tracked: u32,
}
