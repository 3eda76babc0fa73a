//! The network: blocks of convolution, batch norm and ReLU, one of them residual, and a dense head.

use wgpu_batch_norm::{Activation, BatchNormDescriptor, BatchNormLayerDescriptor, Error, Layout, RunningState, Shape};

use crate::network::activation;
use crate::network::context::Context;
use crate::network::convolution::Convolution;
use crate::network::dense::Dense;
use crate::network::digits::CLASSES;
use crate::network::initial::Initial;
use crate::network::norm::{Norm, NormOptions};
use crate::network::tape::Tape;
use crate::network::tensor::{Parameter, Tensor, View};

/// Channels of the convolutions: into and out of each.
const CHANNELS: [[usize; 2]; 4] = [[1, 8], [8, 8], [8, 8], [8, 16]];

/// Convolution, batch norm or a bias, ReLU.
struct Block {
    convolution: Convolution,
    /// With ReLU fused, after the residual if there is one.
    norm: Option<Norm>,
}

impl Block {
    fn new(
        context: &Context,
        layout: Layout,
        [inputs, outputs]: [usize; 2],
        batch_norm: bool,
        initial: &mut Initial,
    ) -> Result<Self, Error> {
        let convolution = Convolution::new(context, layout, inputs, outputs, 3, !batch_norm);
        initial.he(context, &convolution.weight, 9 * inputs);
        let descriptor = BatchNormLayerDescriptor {
            batch_norm: BatchNormDescriptor {
                channels: outputs as u32,
                layout,
                activation: Activation::Relu,
                ..Default::default()
            },
            ..Default::default()
        };
        let norm = batch_norm.then(|| Norm::new(context, &descriptor)).transpose()?;
        Ok(Self { convolution, norm })
    }

    fn forward(&self, tape: &mut Tape<'_>, input: &Tensor, residual: Option<&Tensor>) -> Result<Tensor, Error> {
        let sums = tape.convolution(&self.convolution, input);
        match (&self.norm, residual) {
            (Some(norm), _) => tape.batch_norm_with(norm, &sums, &NormOptions { residual, ..Default::default() }),
            (None, Some(residual)) => Ok(tape.add_relu(&sums, residual)),
            (None, None) => Ok(tape.activation(activation::Activation::Relu, &sums)),
        }
    }

    /// Weight and bias of a convolution that does what convolution and batch norm do with their running statistics.
    fn fold(&self, context: &Context) -> Result<[View; 2], Error> {
        let Some(norm) = &self.norm else {
            let bias = self.convolution.bias.as_ref().map(|bias| bias.values.clone());
            let zeros = || context.zeros("bias", self.convolution.outputs);
            return Ok([self.convolution.weight.values.clone(), bias.unwrap_or_else(zeros)]);
        };
        let layer = &norm.layer;
        let weight = &self.convolution.weight.values;
        let folded = context.zeros("folded weight", weight.len);
        let bias = context.zeros("folded bias", self.convolution.outputs);
        // Weights stand by output channel, whatever the layout of the images.
        let outputs = self.convolution.outputs;
        let plan = layer.batch_norm().plan(&Shape::flat(1, outputs, weight.len / outputs))?;
        let buffers = layer.fold_buffers(weight.slice(), folded.slice(), bias.slice());
        let step = layer.batch_norm().bind_fold(&plan, &buffers.expect("the layer tracks statistics"))?;
        context.gpu.submit(|pass| step.record(pass));
        Ok([folded, bias])
    }
}

/// The whole network.
pub struct Cnn {
    layout: Layout,
    blocks: Vec<Block>,
    head: Dense,
}

impl Cnn {
    /// A seed gives the same weights with and without batch norm, and in both layouts.
    pub fn new(context: &Context, layout: Layout, batch_norm: bool, seed: u64) -> Result<Self, Error> {
        let mut initial = Initial::new(seed);
        let block = |channels| Block::new(context, layout, channels, batch_norm, &mut initial);
        let blocks = CHANNELS.into_iter().map(block).collect::<Result<Vec<_>, _>>()?;
        let last = CHANNELS[CHANNELS.len() - 1][1];
        let head = Dense::new(context, last, CLASSES, true);
        initial.he(context, &head.weight, last);
        Ok(Self { layout, blocks, head })
    }

    /// The shape of a batch of images, whose only channel may stand anywhere.
    pub const fn shape(&self, count: usize) -> [usize; 4] {
        match self.layout {
            Layout::ChannelsFirst => [count, 1, 8, 8],
            Layout::ChannelsLast => [count, 8, 8, 1],
        }
    }

    /// Logits of images.
    pub fn forward(&self, tape: &mut Tape<'_>, images: &Tensor) -> Result<Tensor, Error> {
        let [first, second, third, fourth] = &self.blocks[..] else { unreachable!("as many as CHANNELS") };
        let entry = first.forward(tape, images, None)?;
        // The residual block: what goes in is added before the last ReLU.
        let inner = second.forward(tape, &entry, None)?;
        let sum = third.forward(tape, &inner, Some(&entry))?;
        let half = tape.max_pool(self.layout, &sum);
        let last = fourth.forward(tape, &half, None)?;
        let features = tape.mean_pool(self.layout, &last);
        Ok(tape.dense(&self.head, &features))
    }

    /// The same for inference, with every batch norm folded into its convolution and ReLU into the convolution's kernel.
    pub fn folded(&self, tape: &mut Tape<'_>, images: &Tensor) -> Result<Tensor, Error> {
        let mut folded = Vec::new();
        for block in &self.blocks {
            folded.push((&block.convolution, block.fold(tape.context)?));
        }
        let convolve = |tape: &mut Tape<'_>, index: usize, input: &Tensor, relu: bool| {
            let (convolution, [weight, bias]) = &folded[index];
            tape.evaluated_convolution(convolution, input, [weight, bias], relu)
        };
        let entry = convolve(tape, 0, images, true);
        let inner = convolve(tape, 1, &entry, true);
        let sum = convolve(tape, 2, &inner, false);
        let sum = tape.add_relu(&sum, &entry);
        let half = tape.max_pool(self.layout, &sum);
        let last = convolve(tape, 3, &half, true);
        let features = tape.mean_pool(self.layout, &last);
        Ok(tape.dense(&self.head, &features))
    }

    /// A head that knows nothing, for another task.
    pub fn replace_head(&self, context: &Context, seed: u64) {
        Initial::new(seed).he(context, &self.head.weight, self.head.inputs);
        if let Some(bias) = &self.head.bias {
            context.write(&bias.values, &[0.0_f32; CLASSES]);
        }
    }

    pub fn parameters(&self) -> Vec<Parameter> {
        let block = |block: &Block| {
            let norm = block.norm.as_ref().map(Norm::parameters).unwrap_or_default();
            block.convolution.parameters().chain(norm).collect::<Vec<_>>()
        };
        self.blocks.iter().flat_map(block).chain(self.head.parameters()).collect()
    }

    pub fn norms(&self) -> Vec<Norm> {
        self.blocks.iter().filter_map(|block| block.norm.clone()).collect()
    }

    /// All that was learned, running statistics included.
    pub fn save(&self, context: &Context) -> Result<Saved, Error> {
        let parameters = self.parameters().iter().map(|parameter| context.read(&parameter.values)).collect();
        let states = self.norms().iter().map(|norm| norm.state(context)).collect::<Result<Vec<_>, _>>()?;
        Ok(Saved { parameters, running: states.into_iter().map(|state| state.running).collect() })
    }

    pub fn load(&self, context: &Context, saved: &Saved) -> Result<(), Error> {
        for (parameter, values) in self.parameters().iter().zip(&saved.parameters) {
            context.write(&parameter.values, values);
        }
        for (norm, running) in self.norms().iter().zip(&saved.running) {
            let state = norm.state(context)?;
            norm.load(context, &wgpu_batch_norm::LayerState { running: running.clone(), ..state })?;
        }
        Ok(())
    }
}

/// A network on the host.
pub struct Saved {
    parameters: Vec<Vec<f32>>,
    running: Vec<Option<RunningState>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::digits::{Batches, Digits};
    use crate::network::optimizer::Method;
    use crate::network::support;
    use crate::{fine_tuning, folding};

    mod on_every_adapter {
        use super::*;

        /// Trained for some steps, so that running statistics and betas are not what they were at first.
        fn trained(context: &Context, layout: Layout, batch_norm: bool, digits: &Digits) -> (Cnn, f64) {
            let model = Cnn::new(context, layout, batch_norm, 5).unwrap();
            let method = (Method::Sgd { momentum: 0.9 }, 0.05);
            let trainer = fine_tuning::trainer(context, &model, &digits.training, &digits.test, 64, method).unwrap();
            trainer.step(&Batches::new(digits.training.len(), 64, 5).take(10));
            let loss = trainer.training_scores.take(context, 10).loss;
            (model, loss)
        }

        #[test]
        fn both_layouts_train_alike_and_folding_changes_nothing() {
            let all = support::open_all(None);
            assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
            let digits = Digits::load();
            let few = digits.test.gather(&(0..50).collect::<Vec<_>>());
            for context in all.into_iter().map(Context::new) {
                for batch_norm in [true, false] {
                    let layouts = [Layout::ChannelsFirst, Layout::ChannelsLast];
                    let [first, last] = layouts.map(|layout| trained(&context, layout, batch_norm, &digits));
                    // Sums in another order: ten steps let rounding of 1e-7 grow a little.
                    approx::assert_relative_eq!(first.1, last.1, max_relative = 1e-3);
                    for (model, _) in [first, last] {
                        let found = folding::compare(&context, &model, &few, 0).unwrap();
                        assert!(found.largest_logit > 0.1, "{found:?}");
                        // Four layers, each rounding a sum of some tens of products twice, in units of 6e-8.
                        assert!(found.largest_difference <= 2e-5 * found.largest_logit, "{found:?}");
                    }
                }
            }
        }

        #[test]
        fn a_saved_network_comes_back() {
            let digits = Digits::load();
            for context in support::open_all(None).into_iter().map(Context::new) {
                let (model, _) = trained(&context, Layout::ChannelsFirst, true, &digits);
                let saved = model.save(&context).unwrap();
                let other = Cnn::new(&context, Layout::ChannelsFirst, true, 6).unwrap();
                other.load(&context, &saved).unwrap();
                let again = other.save(&context).unwrap();
                assert_eq!(saved.parameters, again.parameters);
                assert_eq!(saved.running, again.running);
                let batches = saved.running.iter().flatten().map(|running| running.batches_tracked);
                assert_eq!(batches.collect::<Vec<_>>(), [10; CHANNELS.len()]);
            }
        }
    }
}
