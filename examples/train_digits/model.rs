//! What the training loop asks of a network, wherever it runs.

use wgpu_batch_norm::Error;

use crate::network::loss::Metrics;

/// A batch norm in inference mode: all that it read and wrote for the test set.
#[derive(Clone, Debug)]
pub struct InferenceRecord {
    pub input: Vec<f32>,
    pub output: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub running_mean: Vec<f32>,
    pub running_variance: Vec<f32>,
}

/// A network in training.
pub trait Model {
    /// The most steps that one call of `train` takes.
    fn steps_per_call(&self) -> usize;

    /// Trains a step on each batch of `chosen`: sample indices, one batch after the other.
    fn train(&mut self, chosen: &[u32]) -> Result<(), Error>;

    /// Loss and accuracy on the training batches since the last call; `None` before the first step.
    fn training_metrics(&mut self) -> Option<Metrics>;

    /// Loss and accuracy on the test set, in inference mode.
    fn test(&mut self) -> Result<Metrics, Error>;

    /// What went into the sigmoids of the last hidden layer in the last `test`: for each sample, a value a unit.
    fn last_hidden_inputs(&self) -> Vec<f32>;

    /// All parameters, laid out as the architecture says.
    fn parameters(&self) -> Vec<f32>;

    /// What each batch norm did in the last `test`.
    fn inference_records(&self) -> Result<Vec<InferenceRecord>, Error>;
}
