//! The network that all parts train, bound once and started again for every run.

use wgpu_batch_norm::{Convention, Error};

use crate::network::activation::Activation;
use crate::network::context::Context;
use crate::network::digits::{CLASSES, PIXELS, Split};
use crate::network::feed::Feed;
use crate::network::loss::Scores;
use crate::network::norm::{Norm, NormOptions};
use crate::network::optimizer::{Method, Optimizer};
use crate::network::perceptron::Perceptron;
use crate::network::tape::{Program, Tape};
use crate::network::tensor::Tensor;
use crate::network::trainer::Trainer;

/// What a network is.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    pub hidden_layers: usize,
    /// Units of each.
    pub width: usize,
    pub activation: Activation,
    /// Absent: no batch norm.
    pub convention: Option<Convention>,
}

/// A network with all that trains and tests it.
pub struct Model<'c> {
    pub network: Perceptron,
    pub trainer: Trainer<'c>,
    activation: Activation,
}

impl<'c> Model<'c> {
    /// Batch norms in training are used as `options` has it.
    pub fn new(
        context: &'c Context,
        description: &Description,
        [training, test]: [&Split; 2],
        batch_size: usize,
        options: &NormOptions<'_>,
    ) -> Result<Self, Error> {
        let Description { hidden_layers, width, activation, convention } = *description;
        let mut widths = vec![PIXELS];
        widths.resize(hidden_layers + 1, width);
        widths.push(CLASSES);
        let network = Perceptron::new(context, &widths, activation, convention)?;

        let mut feed = Feed::new(context, batch_size);
        let images = feed.add(&context.upload("training images", &training.images), PIXELS);
        let labels = feed.add(&context.upload("training labels", &training.labels), 1);
        let mut tape = Tape::new(context);
        let images = Tensor::data(images, &[batch_size, PIXELS]);
        let outputs =
            network.forward_with(&mut tape, &images, |tape, norm, sums| tape.batch_norm_with(norm, sums, options))?;
        let training_scores = tape.softmax_cross_entropy(logits(&outputs), &labels);
        let training = tape.finish()?;
        let (test, test_scores) = evaluation(context, &network, test)?;
        let optimizer = Optimizer::new(context, Method::Sgd { momentum: 0.0 }, 0.0, network.parameters());
        let norms = network.norms();
        let trainer = Trainer { context, feed, training, training_scores, optimizer, test, test_scores, norms };
        Ok(Self { network, trainer, activation })
    }

    /// Starts again: initial weights of a seed, times a factor, and a learning rate.
    pub fn start(&self, seed: u64, scale: f32, learning_rate: f32) -> Result<(), Error> {
        let Trainer { context, optimizer, training_scores, norms, .. } = &self.trainer;
        // He et al. (arXiv 1502.01852) for ReLU; as much variance as keeps that of a linear layer otherwise.
        let gain = if self.activation == Activation::Relu { 2.0 } else { 1.0 };
        self.network.reset(context, seed, |inputs| scale * (gain / inputs as f32).sqrt())?;
        norms.iter().for_each(Norm::train);
        optimizer.set_learning_rate(context, learning_rate);
        optimizer.reset(context);
        training_scores.take(context, 1);
        Ok(())
    }
}

/// The network over all images of a split, in the mode that its batch norms are in.
pub fn evaluation(context: &Context, network: &Perceptron, split: &Split) -> Result<(Program, Scores), Error> {
    let images = Tensor::data(context.upload("images", &split.images), &[split.len(), PIXELS]);
    let mut tape = Tape::forward_only(context);
    let outputs = network.forward(&mut tape, &images)?;
    let scores = tape.softmax_cross_entropy(logits(&outputs), &context.upload("labels", &split.labels));
    Ok((tape.finish()?, scores))
}

/// A forward over all images of a split after which running statistics are exactly its own.
pub fn recording(context: &Context, network: &Perceptron, split: &Split) -> Result<Program, Error> {
    let images = Tensor::data(context.upload("images", &split.images), &[split.len(), PIXELS]);
    let mut tape = Tape::forward_only(context);
    network.forward_with(&mut tape, &images, Tape::batch_norm_recorded_anew)?;
    tape.finish()
}

fn logits(outputs: &[crate::network::perceptron::Outputs]) -> &Tensor {
    &outputs.last().expect("a network has layers").output
}
