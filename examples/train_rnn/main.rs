//! Handwritten digits, read row by row as sequences of unequal length by a recurrent network: without batch norm, and with batch
//! norm whose statistics are taken over all steps or over each step, on the input or on the state too.
//!
//! ```text
//! hₜ = tanh( BN(Wₓ·xₜ) + BN(Wₕ·hₜ₋₁) )        logits = W·h at the end of each sequence + b
//! ```
//!
//! `cargo run --release --example train_rnn -- --help`
//!
//! Where to look: `Rnn` is the network, with lengths (`bind_valid`), segments along the steps and running statistics of each step;
//! `bind` is what a run is made of, `run` the loop over variants and seeds. Layers and kernels around the crate's are those of the
//! example library, `examples/network`.

#[path = "../network/mod.rs"]
mod network;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use wgpu_batch_norm::{BatchNormDescriptor, BatchNormLayerDescriptor, Convention, Layout, SegmentRunning, Shape};

use network::arguments::{self, Common};
use network::context::Context;
use network::dense::Dense;
use network::digits::{Batches, CLASSES, Digits};
use network::feed::Feed;
use network::initial::Initial;
use network::norm::{Norm, NormOptions};
use network::optimizer::{Method, Optimizer};
use network::plot::{self, Legend, Spread};
use network::progress::Progress;
use network::recurrent::Lengths;
use network::sequences::{STEPS, Sequences, WIDTH};
use network::tape::Tape;
use network::tensor::{Parameter, Tensor};
use network::trainer::{self, Look, Runs, Trainer};

/// Units of the state.
const HIDDEN: usize = 64;
const BATCH_SIZE: usize = 64;
/// How often a run looks at the test sequences.
const LOOKS: usize = 15;

/// Trains a recurrent network on digits that it reads row by row, with batch norm in several places and without
///
/// Each image is cut at a random height, so that sequences have 4 to 8 steps of 8 pixels; in a batch they are padded. The network
/// has a state of 64 units and is trained by Adam; all variants start from the same weights and see the same batches.
///
/// Variants: without batch norm; on the input, with the statistics of all steps of all sequences; the same with padding counted
/// as data; on the input, with statistics of each step; on input and state, with statistics of each step and gamma 0.1 at
/// first; the same with gamma 1 at first. Where padding is masked, it counts for nothing in statistics and gradients.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Of all variants
    #[arg(long, default_value_t = 0.003, value_parser = arguments::positive)]
    learning_rate: f32,
}

/// Where batch norm stands, and over what its statistics are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Without,
    /// On the input, over all steps of all sequences (Laurent et al., arXiv 1510.01378).
    InputSequences,
    /// The same, with padding counted as if it were data.
    InputPadded,
    /// On the input, over the sequences at each step.
    InputSteps,
    /// On input and state, over the sequences at each step, gamma 0.1 at first (Cooijmans et al., arXiv 1603.09025).
    InputAndState,
    /// The same with gamma 1 at first.
    InputAndStateFromOne,
}

impl Variant {
    const ALL: [Self; 6] = [
        Self::Without,
        Self::InputSequences,
        Self::InputPadded,
        Self::InputSteps,
        Self::InputAndState,
        Self::InputAndStateFromOne,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Without => "without batch norm",
            Self::InputSequences => "input, all steps",
            Self::InputPadded => "input, all steps, padding counted",
            Self::InputSteps => "input, each step",
            Self::InputAndState => "input and state, each step",
            Self::InputAndStateFromOne => "the same, gamma from 1",
        }
    }

    const fn by_step(self) -> bool {
        matches!(self, Self::InputSteps | Self::InputAndState | Self::InputAndStateFromOne)
    }

    const fn on_state(self) -> bool {
        matches!(self, Self::InputAndState | Self::InputAndStateFromOne)
    }

    const fn gamma(self) -> f32 {
        if matches!(self, Self::InputAndState) { 0.1 } else { 1.0 }
    }
}

struct Rnn {
    variant: Variant,
    input: Dense,
    recurrent: Dense,
    head: Dense,
    input_norm: Option<Norm>,
    state_norm: Option<Norm>,
}

impl Rnn {
    /// A seed gives the same weights in every variant.
    fn new(context: &Context, variant: Variant, seed: u64) -> Result<Self, wgpu_batch_norm::Error> {
        let with_norm = variant != Variant::Without;
        // Beta of the batch norm on the input does the work of a bias.
        let input = Dense::new(context, WIDTH, HIDDEN, !with_norm);
        let recurrent = Dense::new(context, HIDDEN, HIDDEN, false);
        let head = Dense::new(context, HIDDEN, CLASSES, true);
        let mut initial = Initial::new(seed);
        for layer in [&input, &recurrent, &head] {
            initial.normal(context, &layer.weight, (1.0 / layer.inputs as f32).sqrt());
        }
        let norm = |beta: Option<f32>, sets: usize, segment_running: SegmentRunning| {
            let descriptor = BatchNormLayerDescriptor {
                batch_norm: BatchNormDescriptor {
                    channels: HIDDEN as u32,
                    layout: Layout::ChannelsLast,
                    convention: Convention { segment_running, ..Convention::pytorch() },
                    ..Default::default()
                },
                gamma: Some(variant.gamma()),
                beta,
                running_sets: sets as u32,
                ..Default::default()
            };
            Norm::new(context, &descriptor)
        };
        let (input_sets, separate) =
            if variant.by_step() { (STEPS, SegmentRunning::Separate) } else { (1, SegmentRunning::InTurn) };
        Ok(Self {
            variant,
            input,
            recurrent,
            head,
            input_norm: with_norm.then(|| norm(Some(0.0), input_sets, separate)).transpose()?,
            // One beta is enough for a sum of two. Each step is a use of its own, no segment.
            state_norm: variant.on_state().then(|| norm(None, STEPS, SegmentRunning::InTurn)).transpose()?,
        })
    }

    /// Logits of sequences, (steps, sequences, width).
    fn forward(
        &self,
        tape: &mut Tape<'_>,
        sequences: &Tensor,
        lengths: &Lengths,
    ) -> Result<Tensor, wgpu_batch_norm::Error> {
        let inputs = tape.dense(&self.input, sequences);
        let inputs = match &self.input_norm {
            Some(norm) => self.normalise_inputs(tape, norm, &inputs, lengths)?,
            None => inputs,
        };
        let shape = [lengths.0.len, HIDDEN];
        let zeros = Tensor::data(tape.context.zeros("first state", lengths.0.len * HIDDEN), &shape);
        let mut state = zeros.clone();
        for step in 0..STEPS {
            let recurrent = match step {
                0 => zeros.clone(),
                _ => self.recur(tape, &state, (lengths, step))?,
            };
            state = tape.recurrent_cell((lengths, step), [&inputs.index(step), &recurrent, &state]);
        }
        Ok(tape.dense(&self.head, &state))
    }

    /// All steps at once, whichever of them share statistics.
    fn normalise_inputs(
        &self,
        tape: &mut Tape<'_>,
        norm: &Norm,
        inputs: &Tensor,
        lengths: &Lengths,
    ) -> Result<Tensor, wgpu_batch_norm::Error> {
        let mut shape = Shape::new(&inputs.shape)?;
        if self.variant.by_step() {
            shape = shape.with_segments_along(0)?;
        }
        let masked = self.variant != Variant::InputPadded;
        let valid = masked.then(|| tape.valid_of_sequences(norm, &shape, lengths)).transpose()?;
        let options = NormOptions { shape: Some(shape), valid: valid.as_ref(), ..Default::default() };
        tape.batch_norm_with(norm, inputs, &options)
    }

    /// What the last state gives to this step; its statistics can only be those of the step.
    fn recur(
        &self,
        tape: &mut Tape<'_>,
        state: &Tensor,
        at: (&Lengths, usize),
    ) -> Result<Tensor, wgpu_batch_norm::Error> {
        let recurrent = tape.dense(&self.recurrent, state);
        let Some(norm) = &self.state_norm else { return Ok(recurrent) };
        let valid = tape.valid_at_step(norm, HIDDEN, at)?;
        // The layer has a set of running statistics for each step.
        let options = NormOptions { valid: Some(&valid), running_set: at.1 as u32, ..Default::default() };
        tape.batch_norm_with(norm, &recurrent, &options)
    }

    fn norms(&self) -> Vec<Norm> {
        [&self.input_norm, &self.state_norm].into_iter().flatten().cloned().collect()
    }

    fn parameters(&self) -> Vec<Parameter> {
        let dense = [&self.input, &self.recurrent, &self.head].into_iter().flat_map(Dense::parameters);
        dense.chain(self.norms().iter().flat_map(Norm::parameters)).collect()
    }
}

/// Binds a network to training and test sequences.
fn bind<'c>(
    context: &'c Context,
    model: &Rnn,
    training: &Sequences,
    test: &Sequences,
    learning_rate: f32,
) -> Result<Trainer<'c>, wgpu_batch_norm::Error> {
    let mut feed = Feed::new(context, BATCH_SIZE);
    let rows = feed.add_steps(&context.upload("training rows", &training.rows), STEPS, WIDTH);
    let lengths = Lengths(feed.add(&context.upload("training lengths", &training.lengths), 1));
    let labels = feed.add(&context.upload("training labels", &training.labels), 1);
    let mut tape = Tape::new(context);
    let logits = model.forward(&mut tape, &Tensor::data(rows, &[STEPS, BATCH_SIZE, WIDTH]), &lengths)?;
    let training_scores = tape.softmax_cross_entropy(&logits, &labels);
    let training = tape.finish()?;

    let rows = context.upload("test rows", &test.by_step());
    let lengths = Lengths(context.upload("test lengths", &test.lengths));
    let mut tape = Tape::forward_only(context);
    let logits = model.forward(&mut tape, &Tensor::data(rows, &[STEPS, test.labels.len(), WIDTH]), &lengths)?;
    let test_scores = tape.softmax_cross_entropy(&logits, &context.upload("test labels", &test.labels));
    Ok(Trainer {
        context,
        feed,
        training,
        training_scores,
        optimizer: Optimizer::new(context, Method::Adam, learning_rate, model.parameters()),
        test: tape.finish()?,
        test_scores,
        norms: model.norms(),
    })
}

fn main() -> ExitCode {
    arguments::main(["300", "target/train_rnn"], |arguments: &Arguments| &arguments.common, run)
}

fn run(arguments: &Arguments, context: &Context) -> Result<(), Box<dyn Error>> {
    let digits = Digits::load();
    // Which rows are cut off belongs to the data: it is the same for all seeds of the networks.
    let (training, test) = (Sequences::cut(&digits.training, 1), Sequences::cut(&digits.test, 2));
    let Common { steps, seeds, ref out, .. } = arguments.common;
    println!(
        "Adam, learning rate {}, batches of {BATCH_SIZE}, {steps} steps, {seeds} seeds; sequences of {:.1} steps on average",
        arguments.learning_rate,
        f64::from(training.lengths.iter().sum::<u32>()) / training.lengths.len() as f64
    );
    let steps = steps as usize;
    let progress = Progress::new((Variant::ALL.len() * seeds as usize * steps) as u64)?;
    let mut runs = Variant::ALL.map(|variant| (variant.name(), Runs::new()));
    for seed in arguments.common.seeds() {
        for (variant, (name, runs)) in Variant::ALL.into_iter().zip(&mut runs) {
            if progress.stopped() {
                break;
            }
            progress.say(format!("seed {seed}, {name}"));
            let model = Rnn::new(context, variant, seed)?;
            let trainer = bind(context, &model, &training, &test, arguments.learning_rate)?;
            let mut batches = Batches::new(training.labels.len(), BATCH_SIZE, seed);
            let looks = trainer.run(&mut batches, steps, steps.div_ceil(LOOKS), &progress);
            if let Some(look) = looks.last() {
                let accuracy = 100.0 * look.test.accuracy;
                progress.print(&format!("seed {seed}, {name:<35} test accuracy {accuracy:.2} %"));
            }
            runs.push(looks);
        }
    }
    progress.finish();

    println!("\ntest accuracy in %                     median  lowest  highest   steps to 75 %   training loss");
    for (name, runs) in &runs {
        let loss = |run: &Vec<Look>| Some(run.last()?.training?.loss);
        let loss = Spread::of(runs.iter().filter_map(loss)).median;
        println!("{name:<37} {} {loss:>15.4}", trainer::summary(runs, 0.75));
    }
    let runs = runs.each_ref().map(|(name, runs)| (*name, runs));
    let accuracy = trainer::accuracy_panel("Recurrent network", "test accuracy in %", &runs);
    plot::write(&out.join("training.svg"), &[accuracy, trainer::loss_panel(Legend::LowerLeft, &runs)])
}
