//! The network on the CPU: plain Rust for the dense layers (`network/host.rs`), the crate's reference for batch norm.
//!
//! The same operations in the same order as on the device, on slices of host memory instead of buffers.

use wgpu_batch_norm::{BatchNormDescriptor, ChannelStatistics, Error, Shape, reference};

use crate::architecture::{Architecture, Layer};
use crate::model::{InferenceRecord, Model};
use crate::network::digits::{Digits, Split};
use crate::network::host::{
    Scores, linear_backward_bias, linear_backward_input, linear_backward_weight, linear_forward, softmax_cross_entropy,
};
use crate::network::loss::Metrics;

/// The network, its parameters and gradients.
#[derive(Debug)]
pub struct CpuModel<'d> {
    digits: &'d Digits,
    architecture: Architecture,
    /// The batch norm of each layer that has one.
    norms: Vec<Option<reference::BatchNorm>>,
    batch_size: usize,
    learning_rate: f32,
    parameters: Vec<f32>,
    gradients: Vec<f32>,
    running: Vec<f32>,
    scores: Scores,
    /// The activations of the last `test`, for a look at what inference did.
    tested: Vec<Activations>,
}

/// What one layer computes on the way forward.
#[derive(Clone, Debug, Default)]
struct Activations {
    linear: Vec<f32>,
    /// Empty without batch norm.
    normalised: Vec<f32>,
    /// Empty for the last layer.
    sigmoid: Vec<f32>,
    /// What backward needs of the batch statistics.
    saved: Vec<ChannelStatistics>,
}

/// Which statistics batch norm takes.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Training,
    Inference,
}

impl<'d> CpuModel<'d> {
    pub fn new(
        digits: &'d Digits,
        architecture: &Architecture,
        parameters: &[f32],
        batch_size: usize,
        learning_rate: f32,
    ) -> Result<Self, Error> {
        let norm = |layer: &Layer| {
            let descriptor = BatchNormDescriptor { channels: layer.outputs as u32, ..Default::default() };
            layer.norm.as_ref().map(|_| reference::BatchNorm::new(&descriptor)).transpose()
        };
        Ok(Self {
            digits,
            norms: architecture.layers.iter().map(norm).collect::<Result<_, _>>()?,
            batch_size,
            learning_rate,
            parameters: parameters.to_vec(),
            gradients: vec![0.0; architecture.parameters],
            running: architecture.initial_running(),
            architecture: architecture.clone(),
            scores: Scores::default(),
            tested: Vec::new(),
        })
    }

    /// The activations of all layers; the last one's `linear` are the logits.
    fn forward(&mut self, images: &[f32], rows: usize, mode: Mode) -> Result<Vec<Activations>, Error> {
        let count = self.architecture.layers.len();
        let mut all: Vec<Activations> = Vec::with_capacity(count);
        for (index, (layer, bn)) in self.architecture.layers.iter().zip(&self.norms).enumerate() {
            let input = all.last().map_or(images, |before| &before.sigmoid);
            let bias = layer.bias.clone().map(|bias| &self.parameters[bias]);
            let mut made = Activations {
                linear: linear_forward(
                    input,
                    layer.inputs,
                    &self.parameters[layer.weight.clone()],
                    bias,
                    layer.outputs,
                ),
                ..Default::default()
            };
            if let (Some(bn), Some(norm)) = (bn, &layer.norm) {
                let plan = bn.plan(&Shape::new(&[rows, layer.outputs])?)?;
                let gamma = Some(&self.parameters[norm.gamma.clone()]);
                let beta = Some(&self.parameters[norm.beta.clone()]);
                made.normalised = vec![0.0; made.linear.len()];
                // The mean stands before the variance in the running statistics.
                let (before, after) = self.running.split_at_mut(norm.running_variance.start);
                let mean = &mut before[norm.running_mean.clone()];
                let variance = &mut after[..layer.outputs];
                let (input, output) = (&made.linear, &mut made.normalised);
                match mode {
                    Mode::Training => {
                        made.saved = vec![ChannelStatistics::default(); layer.outputs];
                        let running = Some(reference::RunningStatistics { mean, variance, batches_tracked: None });
                        let saved = Some(&mut made.saved[..]);
                        let rest = reference::TrainingBuffers::default();
                        let buffers = reference::TrainingBuffers { input, output, gamma, beta, running, saved, ..rest };
                        bn.training(&plan, buffers)?;
                    }
                    Mode::Inference => {
                        let (running_mean, running_variance) = (&*mean, &*variance);
                        let buffers = reference::InferenceBuffers {
                            input,
                            output,
                            gamma,
                            beta,
                            running_mean,
                            running_variance,
                            ..Default::default()
                        };
                        bn.inference(&plan, buffers)?;
                    }
                }
            }
            if index + 1 < count {
                let input = if bn.is_some() { &made.normalised } else { &made.linear };
                made.sigmoid = input.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
            }
            all.push(made);
        }
        Ok(all)
    }

    /// Fills the gradients of all parameters.
    fn backward(&mut self, images: &[f32], all: &[Activations], logits_gradient: Vec<f32>) -> Result<(), Error> {
        let rows = logits_gradient.len() / self.architecture.layers.last().map_or(1, |layer| layer.outputs);
        // The gradient with respect to the output of the linear map that the loop is at.
        let mut gradient = logits_gradient;
        for (index, layer) in self.architecture.layers.iter().enumerate().rev() {
            let made = &all[index];
            if !made.sigmoid.is_empty() {
                for (gradient, y) in gradient.iter_mut().zip(&made.sigmoid) {
                    *gradient *= y * (1.0 - y);
                }
            }
            if let (Some(bn), Some(norm)) = (&self.norms[index], &layer.norm) {
                let plan = bn.plan(&Shape::new(&[rows, layer.outputs])?)?;
                let mut input_gradient = vec![0.0; gradient.len()];
                let (before, after) = self.gradients.split_at_mut(norm.beta.start);
                bn.backward(
                    &plan,
                    reference::BackwardBuffers {
                        input: &made.linear,
                        output_gradient: &gradient,
                        gamma: Some(&self.parameters[norm.gamma.clone()]),
                        saved: Some(&made.saved),
                        input_gradient: Some(reference::Gradient::Overwrite(&mut input_gradient)),
                        gamma_gradient: Some(reference::Gradient::Overwrite(&mut before[norm.gamma.clone()])),
                        beta_gradient: Some(reference::Gradient::Overwrite(&mut after[..layer.outputs])),
                        ..Default::default()
                    },
                )?;
                gradient = input_gradient;
            }
            let input = if index == 0 { images } else { &all[index - 1].sigmoid };
            let weight_gradient = &mut self.gradients[layer.weight.clone()];
            linear_backward_weight(&gradient, layer.outputs, input, layer.inputs, weight_gradient);
            if let Some(bias) = layer.bias.clone() {
                linear_backward_bias(&gradient, &mut self.gradients[bias]);
            }
            if index > 0 {
                let weight = &self.parameters[layer.weight.clone()];
                gradient = linear_backward_input(&gradient, layer.outputs, weight, layer.inputs);
            }
        }
        Ok(())
    }

    /// Forward and backward of one batch; the parameters stay as they are.
    fn compute_gradients(&mut self, batch: &Split) -> Result<Scores, Error> {
        let all = self.forward(&batch.images, batch.len(), Mode::Training)?;
        let logits = all.last().map_or(&[][..], |last| &last.linear);
        let (scores, logits_gradient) = softmax_cross_entropy(logits, &batch.labels);
        self.backward(&batch.images, &all, logits_gradient)?;
        Ok(scores)
    }
}

impl Model for CpuModel<'_> {
    fn steps_per_call(&self) -> usize {
        // Often enough for a smooth progress bar.
        10
    }

    fn train(&mut self, chosen: &[u32]) -> Result<(), Error> {
        for chosen in chosen.chunks(self.batch_size) {
            let scores = self.compute_gradients(&self.digits.training.gather(chosen))?;
            self.scores.loss += scores.loss;
            self.scores.hits += scores.hits;
            self.scores.samples += scores.samples;
            for (parameter, gradient) in self.parameters.iter_mut().zip(&self.gradients) {
                *parameter -= self.learning_rate * gradient;
            }
        }
        Ok(())
    }

    fn training_metrics(&mut self) -> Option<Metrics> {
        std::mem::take(&mut self.scores).mean()
    }

    fn test(&mut self) -> Result<Metrics, Error> {
        let test = &self.digits.test;
        self.tested = self.forward(&test.images, test.len(), Mode::Inference)?;
        let logits = self.tested.last().map_or(&[][..], |last| &last.linear);
        let (scores, _) = softmax_cross_entropy(logits, &test.labels);
        Ok(scores.mean().unwrap_or(Metrics { loss: 0.0, accuracy: 0.0 }))
    }

    fn last_hidden_inputs(&self) -> Vec<f32> {
        let hidden = self.tested.iter().rev().find(|made| !made.sigmoid.is_empty());
        hidden.map_or_else(Vec::new, |made| {
            if made.normalised.is_empty() { &made.linear } else { &made.normalised }.clone()
        })
    }

    fn parameters(&self) -> Vec<f32> {
        self.parameters.clone()
    }

    fn inference_records(&self) -> Result<Vec<InferenceRecord>, Error> {
        let layers = self.architecture.layers.iter().zip(&self.tested);
        let record = |(layer, made): (&Layer, &Activations)| {
            layer.norm.as_ref().map(|norm| InferenceRecord {
                input: made.linear.clone(),
                output: made.normalised.clone(),
                gamma: self.parameters[norm.gamma.clone()].to_vec(),
                beta: self.parameters[norm.beta.clone()].to_vec(),
                running_mean: self.running[norm.running_mean.clone()].to_vec(),
                running_variance: self.running[norm.running_variance.clone()].to_vec(),
            })
        };
        Ok(layers.filter_map(record).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every gradient of a small network against the difference quotient of its loss.
    #[test]
    fn gradients_are_those_of_the_loss() {
        let digits = Digits::load();
        let batch = digits.training.gather(&[3, 14, 15, 92, 65, 35]);
        for batch_norm in [true, false] {
            let architecture = Architecture::new(&[64, 5, 4, 10], batch_norm);
            let parameters = architecture.initial_parameters(0.5, 1);
            let mut network = CpuModel::new(&digits, &architecture, &parameters, batch.len(), 0.1).unwrap();
            let mut loss_at = |index: usize, value: f32| {
                let before = std::mem::replace(&mut network.parameters[index], value);
                let loss = network.compute_gradients(&batch).unwrap().mean().unwrap().loss;
                network.parameters[index] = before;
                loss
            };
            let step = 1e-2_f32;
            let quotient = |index: usize| {
                let (low, high) = (parameters[index] - step, parameters[index] + step);
                (loss_at(index, high) - loss_at(index, low)) / f64::from(high - low)
            };
            let quotients: Vec<f64> = (0..parameters.len()).map(quotient).collect();
            network.compute_gradients(&batch).unwrap();
            for (index, (&gradient, quotient)) in network.gradients.iter().zip(quotients).enumerate() {
                approx::assert_abs_diff_eq!(f64::from(gradient), quotient, epsilon = 1e-3);
                assert!(gradient.is_finite(), "parameter {index}");
            }
            assert!(network.gradients.iter().any(|gradient| gradient.abs() > 0.05));
        }
    }
}
