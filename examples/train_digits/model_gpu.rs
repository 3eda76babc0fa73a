//! The network on the device: the example library's layers around the crate's batch norm.
//!
//! Everything is bound once, at the start. A training step is then a list of dispatches, recorded into one compute pass; many steps
//! go into one submission. wgpu puts the barriers between the dispatches.

use wgpu_batch_norm::{Convention, Error};

use crate::architecture::Architecture;
use crate::model::{InferenceRecord, Model};
use crate::network::activation::Activation;
use crate::network::context::Context;
use crate::network::digits::{Digits, PIXELS};
use crate::network::feed::Feed;
use crate::network::loss::Metrics;
use crate::network::optimizer::{Method, Optimizer};
use crate::network::perceptron::{Outputs, Perceptron};
use crate::network::tape::Tape;
use crate::network::tensor::Tensor;
use crate::network::trainer::Trainer;

/// The network, bound and ready to be recorded.
pub struct GpuModel<'c> {
    network: Perceptron,
    trainer: Trainer<'c>,
    batch_size: usize,
    trained_batches: usize,
    /// What `test` fills, layer by layer.
    tested: Vec<Outputs>,
}

impl<'c> GpuModel<'c> {
    pub fn new(
        context: &'c Context,
        digits: &Digits,
        architecture: &Architecture,
        parameters: &[f32],
        batch_size: usize,
        learning_rate: f32,
    ) -> Result<Self, Error> {
        let convention = architecture.has_norms().then(Convention::pytorch);
        let network = Perceptron::new(context, &architecture.widths(), Activation::Sigmoid, convention)?;
        // Both have the parameters in one order: of each layer weight and bias, or weight, gamma and beta.
        let mut left = parameters;
        for parameter in network.parameters() {
            let (values, rest) = left.split_at(parameter.values.len);
            context.write(&parameter.values, values);
            left = rest;
        }

        // The device picks the batches itself, by sample index.
        let mut feed = Feed::new(context, batch_size);
        let images = feed.add(&context.upload("training images", &digits.training.images), PIXELS);
        let labels = feed.add(&context.upload("training labels", &digits.training.labels), 1);
        let mut tape = Tape::new(context);
        let outputs = network.forward(&mut tape, &Tensor::data(images, &[batch_size, PIXELS]))?;
        let training_scores = tape.softmax_cross_entropy(&outputs[outputs.len() - 1].output, &labels);
        let training = tape.finish()?;

        let images = context.upload("test images", &digits.test.images);
        let labels = context.upload("test labels", &digits.test.labels);
        let mut tape = Tape::forward_only(context);
        let tested = network.forward(&mut tape, &Tensor::data(images, &[digits.test.len(), PIXELS]))?;
        let test_scores = tape.softmax_cross_entropy(&tested[tested.len() - 1].output, &labels);
        let trainer = Trainer {
            context,
            feed,
            training,
            training_scores,
            optimizer: Optimizer::new(context, Method::Sgd { momentum: 0.0 }, learning_rate, network.parameters()),
            test: tape.finish()?,
            test_scores,
            norms: network.norms(),
        };
        Ok(Self { network, trainer, batch_size, trained_batches: 0, tested })
    }
}

impl Model for GpuModel<'_> {
    fn steps_per_call(&self) -> usize {
        self.trainer.feed.max_steps()
    }

    fn train(&mut self, chosen: &[u32]) -> Result<(), Error> {
        self.trainer.step(chosen);
        self.trained_batches += chosen.len() / self.batch_size;
        Ok(())
    }

    fn training_metrics(&mut self) -> Option<Metrics> {
        let batches = std::mem::take(&mut self.trained_batches);
        (batches > 0).then(|| self.trainer.training_scores.take(self.trainer.context, batches))
    }

    fn test(&mut self) -> Result<Metrics, Error> {
        Ok(self.trainer.test())
    }

    fn last_hidden_inputs(&self) -> Vec<f32> {
        let hidden = self.tested.iter().rev().nth(1);
        hidden.map_or_else(Vec::new, |made| {
            self.trainer.context.read(&made.normalised.as_ref().unwrap_or(&made.linear).values)
        })
    }

    fn parameters(&self) -> Vec<f32> {
        let read = |parameter: crate::network::tensor::Parameter| self.trainer.context.read::<f32>(&parameter.values);
        self.network.parameters().into_iter().flat_map(read).collect()
    }

    fn inference_records(&self) -> Result<Vec<InferenceRecord>, Error> {
        let context = self.trainer.context;
        let mut records = Vec::new();
        for (layer, made) in self.network.layers.iter().zip(&self.tested) {
            let (Some(norm), Some(normalised)) = (&layer.norm, &made.normalised) else { continue };
            let state = norm.state(context)?;
            let running = state.running.expect("the layer tracks statistics");
            records.push(InferenceRecord {
                input: context.read(&made.linear.values),
                output: context.read(&normalised.values),
                gamma: state.gamma.unwrap_or_default(),
                beta: state.beta.unwrap_or_default(),
                running_mean: running.mean,
                running_variance: running.variance,
            });
        }
        Ok(records)
    }
}
