//! Handwritten digits, read row by row as sequences of unequal length by a recurrent network: without batch norm, and with batch
//! norm whose statistics are taken over all steps or over each step, on the input or on the state too.
//!
//! `cargo run --release --example train_rnn -- --help`
//!
//! Where to look: `model.rs` is the network, with lengths (`bind_valid`), segments along the steps and running statistics of each
//! step; `sequences.rs` makes sequences of the digits. The kernels around the crate's are those of the example library,
//! `examples/network`.

mod model;
#[path = "../network/mod.rs"]
mod network;
mod sequences;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use model::{Rnn, Variant};
use network::arguments::{self, Common};
use network::context::Context;
use network::digits::{Batches, Digits};
use network::feed::Feed;
use network::optimizer::{Method, Optimizer};
use network::plot::{self, Legend, Lines, Panel, Series, Spread};
use network::progress::Progress;
use network::recurrent::Lengths;
use network::tape::Tape;
use network::tensor::Tensor;
use network::trainer::{self, Look, Trainer};
use sequences::{STEPS, Sequences, WIDTH};

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
    /// Runs of each variant, with seeds from --seed on
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// Of all variants
    #[arg(long, default_value_t = 0.003)]
    learning_rate: f32,
}

fn main() -> ExitCode {
    let arguments: Arguments = arguments::parse("300", "target/train_rnn");
    let context = match arguments.common.open() {
        Ok(context) => context,
        Err(code) => return code,
    };
    match run(&arguments, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let digits = Digits::load();
    // Which rows are cut off belongs to the data: it is the same for all seeds of the networks.
    let (training, test) = (Sequences::cut(&digits.training, 1), Sequences::cut(&digits.test, 2));
    let (steps, seeds) = (arguments.common.steps as usize, arguments.seeds as usize);
    println!(
        "Adam, learning rate {}, batches of {BATCH_SIZE}, {steps} steps, {seeds} seeds; sequences of {:.1} steps on average",
        arguments.learning_rate,
        f64::from(training.lengths.iter().sum::<u32>()) / training.lengths.len() as f64
    );
    let progress = Progress::new((Variant::ALL.len() * seeds * steps) as u64)?;
    let mut runs = Variant::ALL.map(|variant| (variant, Vec::new()));
    for seed in (arguments.common.seed..).take(seeds) {
        for (variant, runs) in &mut runs {
            if progress.stopped() {
                break;
            }
            progress.say(format!("seed {seed}, {}", variant.name()));
            let model = Rnn::new(context, *variant, seed)?;
            let trainer = bind(context, &model, &training, &test, arguments.learning_rate)?;
            let mut batches = Batches::new(training.labels.len(), BATCH_SIZE, seed);
            let looks = trainer.run(&mut batches, steps, steps.div_ceil(LOOKS), &progress);
            if let Some(look) = looks.last() {
                let accuracy = 100.0 * look.test.accuracy;
                progress.print(&format!("seed {seed}, {:<35} test accuracy {accuracy:.2} %", variant.name()));
            }
            runs.push(looks);
        }
    }
    progress.finish();

    println!("\ntest accuracy in %                     median  lowest  highest   steps to 75 %   training loss");
    for (variant, runs) in &runs {
        let loss = |run: &Vec<Look>| Some(run.last()?.training?.loss);
        let loss = Spread::of(runs.iter().filter_map(loss)).median;
        println!("{:<37} {} {loss:>15.4}", variant.name(), trainer::summary(runs, 0.75));
    }

    let curves = |value: fn(&Look) -> Option<f64>| -> Vec<Series> {
        runs.iter().map(|(variant, runs)| trainer::curve(variant.name(), runs, value)).collect()
    };
    let accuracy = Lines {
        title: "Recurrent network".to_owned(),
        x: "training steps".to_owned(),
        y: "test accuracy in %".to_owned(),
        series: curves(|look| Some(100.0 * look.test.accuracy)),
        ..Default::default()
    };
    let loss = Lines {
        title: "Loss".to_owned(),
        x: "training steps".to_owned(),
        y: "training loss".to_owned(),
        log_y: true,
        legend: Legend::LowerLeft,
        series: curves(|look| look.training.map(|training| training.loss)),
        ..Default::default()
    };
    let out = &arguments.common.out;
    plot::write(&out.join("training.svg"), &[Panel::Lines(accuracy), Panel::Lines(loss)])?;
    println!("\nplots and their data: {}", out.display());
    println!("{:.1} s on {}", start.elapsed().as_secs_f64(), context.gpu.info.name);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use network::support;

    mod on_every_adapter {
        use super::*;

        #[test]
        fn every_variant_learns() {
            let all = support::open_all(None);
            assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
            let digits = Digits::load();
            let (training, test) = (Sequences::cut(&digits.training, 1), Sequences::cut(&digits.test, 2));
            for context in all.into_iter().map(Context::new) {
                for variant in Variant::ALL {
                    let model = Rnn::new(&context, variant, 1).unwrap();
                    let trainer = bind(&context, &model, &training, &test, 0.01).unwrap();
                    let mut batches = Batches::new(training.labels.len(), BATCH_SIZE, 1);
                    let looks = trainer.run(&mut batches, 30, 15, &Progress::hidden());
                    let losses: Vec<f64> = looks.iter().filter_map(|look| Some(look.training?.loss)).collect();
                    // Chance is ln 10 = 2.3.
                    assert!(losses.len() == 2 && losses[1] < losses[0] && losses[1] < 2.0, "{variant:?}: {losses:?}");
                    assert!(looks[2].test.accuracy > 0.2, "{variant:?}: {looks:?}");
                }
            }
        }
    }
}
