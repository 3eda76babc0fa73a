//! A stack of fully connected layers, each but the last with an activation, and a batch norm before it or none.

use wgpu_batch_norm::{Activation as Fused, BatchNormDescriptor, BatchNormLayerDescriptor, Convention, Error};

use super::activation::Activation;
use super::context::Context;
use super::dense::Dense;
use super::initial::Initial;
use super::norm::Norm;
use super::tape::Tape;
use super::tensor::{Parameter, Tensor};

/// The network.
#[derive(Clone, Debug)]
pub struct Perceptron {
    pub layers: Vec<Layer>,
    activation: Activation,
}

#[derive(Clone, Debug)]
pub struct Layer {
    pub dense: Dense,
    /// With ReLU fused, where that is the activation.
    pub norm: Option<Norm>,
}

/// What a layer computes.
#[derive(Clone, Debug)]
pub struct Outputs {
    pub linear: Tensor,
    /// Absent without batch norm.
    pub normalised: Option<Tensor>,
    /// What the next layer takes; of the last layer, the logits.
    pub output: Tensor,
}

impl Perceptron {
    /// Layers from each of `widths` to the next, with batch norms of a convention or without, all parameters as they are made:
    /// see [`Perceptron::reset`].
    ///
    /// # Errors
    /// As [`Norm::new`].
    pub fn new(
        context: &Context,
        widths: &[usize],
        activation: Activation,
        convention: Option<Convention>,
    ) -> Result<Self, Error> {
        let last = widths.len().saturating_sub(2);
        let layer = |(index, pair): (usize, &[usize])| {
            let norm = convention.filter(|_| index != last).map(|convention| {
                let batch_norm = BatchNormDescriptor {
                    label: Some(format!("hidden layer {}", index + 1)),
                    channels: pair[1] as u32,
                    convention,
                    activation: if activation == Activation::Relu { Fused::Relu } else { Fused::Identity },
                    ..Default::default()
                };
                Norm::new(context, &BatchNormLayerDescriptor { batch_norm, ..Default::default() })
            });
            let norm = norm.transpose()?;
            Ok(Layer { dense: Dense::new(context, pair[0], pair[1], norm.is_none()), norm })
        };
        Ok(Self { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_, Error>>()?, activation })
    }

    /// A network that has learned nothing: Gaussian weights whose deviation follows from the inputs of their layer, biases and betas
    /// 0, gammas 1, running statistics 0 and 1. A seed gives the same weights with and without batch norm.
    ///
    /// # Errors
    /// As [`Norm::reset`].
    pub fn reset(&self, context: &Context, seed: u64, deviation: impl Fn(usize) -> f32) -> Result<(), Error> {
        let mut initial = Initial::new(seed);
        for Layer { dense, norm } in &self.layers {
            initial.normal(context, &dense.weight, deviation(dense.inputs));
            if let Some(bias) = &dense.bias {
                context.write(&bias.values, &vec![0.0_f32; dense.outputs]);
            }
            if let Some(norm) = norm {
                norm.reset(context)?;
            }
        }
        Ok(())
    }

    /// What each layer computes; the last one's `output` are the logits.
    ///
    /// # Errors
    /// As [`Tape::batch_norm`].
    pub fn forward(&self, tape: &mut Tape<'_>, images: &Tensor) -> Result<Vec<Outputs>, Error> {
        self.forward_with(tape, images, Tape::batch_norm)
    }

    /// The same with batch norms used in a way of the caller's choice.
    ///
    /// # Errors
    /// Those of `normalise`.
    pub fn forward_with<'c>(
        &self,
        tape: &mut Tape<'c>,
        images: &Tensor,
        mut normalise: impl FnMut(&mut Tape<'c>, &Norm, &Tensor) -> Result<Tensor, Error>,
    ) -> Result<Vec<Outputs>, Error> {
        let mut all: Vec<Outputs> = Vec::with_capacity(self.layers.len());
        for (index, Layer { dense, norm }) in self.layers.iter().enumerate() {
            let linear = tape.dense(dense, all.last().map_or(images, |before| &before.output));
            let normalised = norm.as_ref().map(|norm| normalise(tape, norm, &linear)).transpose()?;
            let fused = normalised.is_some() && self.activation == Activation::Relu;
            let input = normalised.as_ref().unwrap_or(&linear);
            let output = if fused || index + 1 == self.layers.len() {
                input.clone()
            } else {
                tape.activation(self.activation, input)
            };
            all.push(Outputs { linear, normalised, output });
        }
        Ok(all)
    }

    pub fn parameters(&self) -> Vec<Parameter> {
        let layer = |layer: &Layer| {
            layer
                .dense
                .parameters()
                .chain(layer.norm.as_ref().map(Norm::parameters).unwrap_or_default())
                .collect::<Vec<_>>()
        };
        self.layers.iter().flat_map(layer).collect()
    }

    pub fn norms(&self) -> Vec<Norm> {
        self.layers.iter().filter_map(|layer| layer.norm.clone()).collect()
    }
}
