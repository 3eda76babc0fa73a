//! A small convolutional network on handwritten digits, with and without batch norm; then fine-tuning with frozen statistics,
//! and folding for inference.
//!
//! `cargo run --release --example train_cnn -- --help`
//!
//! Where to look: `Block` and `Cnn` are the network, with convolution, batch norm, residual and ReLU fused as the crate does it;
//! `bind` is what a run is made of, `run` the loop over networks and seeds; `fine_tune` and `compare_folded` are the two uses of
//! running statistics. Layers and kernels around the crate's are those of the example library, `examples/network`.

#[path = "../network/mod.rs"]
mod network;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use wgpu_batch_norm::{Activation, BatchNormDescriptor, BatchNormLayerDescriptor, Layout, Shape};

use network::activation;
use network::arguments::{self, Common};
use network::context::Context;
use network::convolution::Convolution;
use network::dense::Dense;
use network::digits::{Batches, CLASSES, Digits, PIXELS, Split};
use network::feed::Feed;
use network::initial::Initial;
use network::norm::{Norm, NormOptions};
use network::optimizer::{Method, Optimizer};
use network::plot::{self, Legend, Spread};
use network::progress::Progress;
use network::snapshot::Snapshot;
use network::tape::Tape;
use network::tensor::{Parameter, Tensor, View};
use network::timing;
use network::trainer::{self, Look, Runs, Trainer};

/// Channels of the convolutions: into and out of each.
const CHANNELS: [[usize; 2]; 4] = [[1, 8], [8, 8], [8, 8], [8, 16]];
const BATCH_SIZE: usize = 64;
/// How often a run looks at the test images.
const LOOKS: usize = 12;
/// How often inference with and without folding is timed, in turn.
const TIMED_ROUNDS: usize = 9;
/// Images of the second task to learn from, and how many of them make a batch.
const TUNING_SAMPLES: usize = 200;
const TUNING_BATCH_SIZE: usize = 2;
/// Of plain SGD, in steps small enough for such batches.
const TUNING_RATE: f32 = 0.01;

/// Trains a small convolutional network on handwritten digits with and without batch norm, fine-tunes it with frozen statistics, and folds it for inference
///
/// The network: 3 × 3 convolutions to 8 channels, a residual block of two more, 2 × 2 pooling, one to 16 channels, the mean
/// over pixels, a dense layer. With batch norm, convolutions have no bias, and ReLU and the residual are fused into the batch
/// norm. Both networks start from the same weights and see the same batches.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Where the channels stand in memory
    #[arg(long, value_enum, default_value_t = LayoutArgument::First)]
    layout: LayoutArgument,
    /// How both networks learn
    #[arg(long, value_enum, default_value_t = OptimizerArgument::Sgd)]
    optimizer: OptimizerArgument,
    /// Of both networks [default: 0.1 for SGD, 0.003 for Adam]
    #[arg(long, value_parser = arguments::positive)]
    learning_rate: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum LayoutArgument {
    /// (N, C, H, W)
    First,
    /// (N, H, W, C)
    Last,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum OptimizerArgument {
    /// With momentum 0.9
    Sgd,
    /// With the customary 0.9 and 0.999
    Adam,
}

impl Arguments {
    const fn layout(&self) -> Layout {
        match self.layout {
            LayoutArgument::First => Layout::ChannelsFirst,
            LayoutArgument::Last => Layout::ChannelsLast,
        }
    }

    fn method(&self) -> (Method, f32) {
        let (method, rate) = match self.optimizer {
            OptimizerArgument::Sgd => (Method::Sgd { momentum: 0.9 }, 0.1),
            OptimizerArgument::Adam => (Method::Adam, 0.003),
        };
        (method, self.learning_rate.unwrap_or(rate))
    }
}

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
    ) -> Result<Self, wgpu_batch_norm::Error> {
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

    fn forward(
        &self,
        tape: &mut Tape<'_>,
        input: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, wgpu_batch_norm::Error> {
        let sums = tape.convolution(&self.convolution, input);
        match (&self.norm, residual) {
            (Some(norm), _) => tape.batch_norm_with(norm, &sums, &NormOptions { residual, ..Default::default() }),
            (None, Some(residual)) => Ok(tape.add_relu(&sums, residual)),
            (None, None) => Ok(tape.activation(activation::Activation::Relu, &sums)),
        }
    }

    /// Weight and bias of a convolution that does what convolution and batch norm do with their running statistics.
    fn fold(&self, context: &Context) -> Result<[View; 2], wgpu_batch_norm::Error> {
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
struct Cnn {
    layout: Layout,
    blocks: Vec<Block>,
    head: Dense,
}

impl Cnn {
    /// A seed gives the same weights with and without batch norm, and in both layouts.
    fn new(context: &Context, layout: Layout, batch_norm: bool, seed: u64) -> Result<Self, wgpu_batch_norm::Error> {
        let mut initial = Initial::new(seed);
        let block = |channels| Block::new(context, layout, channels, batch_norm, &mut initial);
        let blocks = CHANNELS.into_iter().map(block).collect::<Result<Vec<_>, _>>()?;
        let last = CHANNELS[CHANNELS.len() - 1][1];
        let head = Dense::new(context, last, CLASSES, true);
        initial.he(context, &head.weight, last);
        Ok(Self { layout, blocks, head })
    }

    /// The shape of a batch of images, whose only channel may stand anywhere.
    const fn shape(&self, count: usize) -> [usize; 4] {
        match self.layout {
            Layout::ChannelsFirst => [count, 1, 8, 8],
            Layout::ChannelsLast => [count, 8, 8, 1],
        }
    }

    /// Logits of images.
    fn forward(&self, tape: &mut Tape<'_>, images: &Tensor) -> Result<Tensor, wgpu_batch_norm::Error> {
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
    fn folded(&self, tape: &mut Tape<'_>, images: &Tensor) -> Result<Tensor, wgpu_batch_norm::Error> {
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
    fn replace_head(&self, context: &Context, seed: u64) {
        Initial::new(seed).he(context, &self.head.weight, self.head.inputs);
        if let Some(bias) = &self.head.bias {
            context.write(&bias.values, &[0.0_f32; CLASSES]);
        }
    }

    fn parameters(&self) -> Vec<Parameter> {
        let block = |block: &Block| {
            let norm = block.norm.as_ref().map(Norm::parameters).unwrap_or_default();
            block.convolution.parameters().chain(norm).collect::<Vec<_>>()
        };
        self.blocks.iter().flat_map(block).chain(self.head.parameters()).collect()
    }

    fn norms(&self) -> Vec<Norm> {
        self.blocks.iter().filter_map(|block| block.norm.clone()).collect()
    }
}

/// Binds a network to training and test images.
fn bind<'c>(
    context: &'c Context,
    model: &Cnn,
    [training, test]: [&Split; 2],
    batch_size: usize,
    (method, learning_rate): (Method, f32),
) -> Result<Trainer<'c>, wgpu_batch_norm::Error> {
    let mut feed = Feed::new(context, batch_size);
    let images = feed.add(&context.upload("training images", &training.images), PIXELS);
    let labels = feed.add(&context.upload("training labels", &training.labels), 1);
    let mut tape = Tape::new(context);
    let logits = model.forward(&mut tape, &Tensor::data(images, &model.shape(batch_size)))?;
    let training_scores = tape.softmax_cross_entropy(&logits, &labels);
    let training = tape.finish()?;

    let images = Tensor::data(context.upload("test images", &test.images), &model.shape(test.len()));
    let mut tape = Tape::forward_only(context);
    let logits = model.forward(&mut tape, &images)?;
    let test_scores = tape.softmax_cross_entropy(&logits, &context.upload("test labels", &test.labels));
    Ok(Trainer {
        context,
        feed,
        training,
        training_scores,
        optimizer: Optimizer::new(context, method, learning_rate, model.parameters()),
        test: tape.finish()?,
        test_scores,
        norms: model.norms(),
    })
}

fn main() -> ExitCode {
    arguments::main(["240", "target/train_cnn"], |arguments: &Arguments| &arguments.common, run)
}

fn run(arguments: &Arguments, context: &Context) -> Result<(), Box<dyn Error>> {
    let digits = Digits::load();
    let Common { steps, seeds, ref out, .. } = arguments.common;
    let (method, learning_rate) = arguments.method();
    println!("{method:?}, learning rate {learning_rate}, batches of {BATCH_SIZE}, {steps} steps, {seeds} seeds");
    let steps = steps as usize;
    // Two networks, and four times fine-tuning, whose steps are small.
    let progress = Progress::new((seeds as usize * 6 * steps) as u64)?;

    let mut networks = [("with batch norm", Runs::new()), ("without batch norm", Runs::new())];
    let mut tunings = [
        ("renamed, frozen", Task::Renamed, Statistics::Frozen, Runs::new()),
        ("renamed, of the batch", Task::Renamed, Statistics::Batch, Runs::new()),
        ("turned, frozen", Task::Turned, Statistics::Frozen, Runs::new()),
        ("turned, of the batch", Task::Turned, Statistics::Batch, Runs::new()),
    ];
    let mut folding = None;
    for seed in arguments.common.seeds() {
        for (batch_norm, (name, runs)) in [true, false].into_iter().zip(&mut networks) {
            if progress.stopped() {
                break;
            }
            progress.say(format!("seed {seed}, {name}"));
            let model = Cnn::new(context, arguments.layout(), batch_norm, seed)?;
            let (data, method) = ([&digits.training, &digits.test], (method, learning_rate));
            let trainer = bind(context, &model, data, BATCH_SIZE, method)?;
            let mut batches = Batches::new(digits.training.len(), BATCH_SIZE, seed);
            let looks = trainer.run(&mut batches, steps, steps.div_ceil(LOOKS), &progress);
            progress.print(&format!("seed {seed}, {name:<19} {}", last(&looks)));
            runs.push(looks);
            if !batch_norm {
                continue;
            }
            folding = Some(compare_folded(context, &model, &digits.test, TIMED_ROUNDS)?);
            let learned = Snapshot::take(context, &model.parameters(), &model.norms())?;
            for (_, task, statistics, runs) in &mut tunings {
                progress.say(format!("seed {seed}, fine-tuning"));
                let times = ([steps, steps.div_ceil(LOOKS / 2)], seed);
                let how = (*task, *statistics);
                runs.push(fine_tune(context, (&model, &learned), &digits, how, times, &progress)?);
            }
        }
    }
    progress.finish();

    println!("\ntest accuracy in %        median  lowest  highest   steps to 90 %");
    let networks = networks.each_ref().map(|(name, runs)| (*name, runs));
    let tunings = tunings.each_ref().map(|(name, _, _, runs)| (*name, runs));
    for (name, runs) in networks.iter().chain(&tunings) {
        println!("{name:<24} {}", trainer::summary(runs, 0.9));
    }
    if let Some(folding) = folding {
        print_folding(&folding, digits.test.len());
    }
    let accuracy = trainer::accuracy_panel("Convolutional network", "test accuracy in %", &networks);
    plot::write(&out.join("training.svg"), &[accuracy, trainer::loss_panel(Legend::UpperRight, &networks)])?;
    let title = format!("Fine-tuning in batches of {TUNING_BATCH_SIZE}");
    let tuning = trainer::accuracy_panel(&title, "test accuracy in %, second task", &tunings);
    plot::write(&out.join("fine_tuning.svg"), &[tuning])
}

fn last(looks: &[Look]) -> String {
    looks.last().map_or_else(String::new, |look| {
        let loss = look.training.map_or(f64::NAN, |training| training.loss);
        format!("training loss {loss:.4}, test accuracy {:.2} %", 100.0 * look.test.accuracy)
    })
}

/// What is learned after the first task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// The same images under other names, so that the statistics of the first task suit the second one.
    Renamed,
    /// Other images under the same names: turned over the diagonal.
    Turned,
}

impl Task {
    fn of(self, split: &Split) -> Split {
        let Split { mut images, mut labels } = split.clone();
        match self {
            Self::Renamed => labels.iter_mut().for_each(|label| *label = (3 * *label + 1) % CLASSES as u32),
            Self::Turned => {
                let turned = |index: usize| split.images[index / PIXELS * PIXELS + index % 8 * 8 + index % PIXELS / 8];
                images = (0..images.len()).map(turned).collect();
            }
        }
        Split { images, labels }
    }
}

/// Which statistics batch norms take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statistics {
    /// Those of each small batch, which also update the running ones.
    Batch,
    /// The running ones of the first task, as constants in forward and backward.
    Frozen,
}

/// Fine-tuning in very small batches: trains `model` on the second task, from what it was when `learned` was taken but with a new
/// head; it is left as it was.
fn fine_tune(
    context: &Context,
    (model, learned): (&Cnn, &Snapshot),
    digits: &Digits,
    (task, statistics): (Task, Statistics),
    (times, seed): ([usize; 2], u64),
    progress: &Progress,
) -> Result<Vec<Look>, wgpu_batch_norm::Error> {
    learned.restore(context, &model.parameters(), &model.norms())?;
    model.replace_head(context, seed);
    let few: Vec<u32> = (0..TUNING_SAMPLES as u32).collect();
    let (training, test) = (task.of(&digits.training.gather(&few)), task.of(&digits.test));
    let method = (Method::Sgd { momentum: 0.0 }, TUNING_RATE);
    let trainer = bind(context, model, [&training, &test], TUNING_BATCH_SIZE, method)?;
    let mode = match statistics {
        Statistics::Batch => Norm::train,
        Statistics::Frozen => Norm::eval,
    };
    let mut batches = Batches::new(TUNING_SAMPLES, TUNING_BATCH_SIZE, seed);
    let looks = trainer.run_as(&mut batches, times, mode, progress);
    learned.restore(context, &model.parameters(), &model.norms())?;
    model.norms().iter().for_each(Norm::train);
    Ok(looks)
}

/// What folding changed.
#[derive(Clone, Copy, Debug)]
struct Folding {
    /// Without and with folding.
    accuracy: [f64; 2],
    /// Of all test images, without and with folding.
    milliseconds: [Spread; 2],
    largest_logit: f64,
    largest_difference: f64,
}

/// Inference with batch norms folded into the convolutions, beside inference with them; both are timed in each of `rounds`.
fn compare_folded(
    context: &Context,
    model: &Cnn,
    test: &Split,
    rounds: usize,
) -> Result<Folding, wgpu_batch_norm::Error> {
    model.norms().iter().for_each(Norm::eval);
    let images = Tensor::data(context.upload("test images", &test.images), &model.shape(test.len()));
    let labels = context.upload("test labels", &test.labels);
    let bind = |folded: bool| {
        let mut tape = Tape::forward_only(context);
        let logits = if folded { model.folded(&mut tape, &images)? } else { model.forward(&mut tape, &images)? };
        let scores = tape.softmax_cross_entropy(&logits, &labels);
        Ok::<_, wgpu_batch_norm::Error>((tape.finish()?, logits, scores))
    };
    let networks = [bind(false)?, bind(true)?];
    let mut logits = [const { Vec::new() }; 2];
    let mut accuracy = [0.0; 2];
    for (index, (program, values, scores)) in networks.iter().enumerate() {
        context.gpu.submit(|pass| program.record_forward(pass));
        logits[index] = context.read::<f32>(&values.values);
        accuracy[index] = scores.take(context, 1).accuracy;
    }
    // NaN would be the largest of all.
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value.abs())).max_by(f64::total_cmp).unwrap_or(0.0)
    };
    let [plain, folded] = &logits;
    let milliseconds = timing::forwards_in_turn(context, [&networks[0].0, &networks[1].0], rounds);
    model.norms().iter().for_each(Norm::train);
    Ok(Folding {
        accuracy,
        milliseconds,
        largest_logit: largest(&mut plain.iter().copied()),
        largest_difference: largest(&mut plain.iter().zip(folded).map(|(a, b)| a - b)),
    })
}

fn print_folding(folding: &Folding, images: usize) {
    let [plain, folded] = folding.milliseconds;
    println!(
        "\nfolding: accuracy {:.2} % before and {:.2} % after; logits up to {:.1} differ by at most {:.1e}\n\
         {images} test images in {:.2} ms before and {:.2} ms after: {:.2} times as fast (medians of rounds in turn)",
        100.0 * folding.accuracy[0],
        100.0 * folding.accuracy[1],
        folding.largest_logit,
        folding.largest_difference,
        plain.median,
        folded.median,
        plain.median / folded.median,
    );
}
