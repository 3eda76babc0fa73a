//! A small convolutional network on handwritten digits, with and without batch norm; then fine-tuning with frozen statistics,
//! and folding for inference.
//!
//! `cargo run --release --example train_cnn -- --help`
//!
//! Where to look: `model.rs` is the network, with convolution, batch norm, residual and ReLU fused as the crate does it;
//! `fine_tuning.rs` and `folding.rs` are the two uses of running statistics. The kernels around the crate's are those of the
//! example library, `examples/network`.

mod fine_tuning;
mod folding;
mod model;
#[path = "../network/mod.rs"]
mod network;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use wgpu_batch_norm::Layout;

use fine_tuning::{Statistics, Task};
use model::Cnn;
use network::arguments::{self, Common};
use network::context::Context;
use network::digits::{Batches, Digits};
use network::optimizer::Method;
use network::plot::{self, Lines, Panel, Series};
use network::progress::Progress;
use network::trainer::{self, Look};

const BATCH_SIZE: usize = 64;
/// How often a run looks at the test images.
const LOOKS: usize = 12;
/// How often inference with and without folding is timed, in turn.
const TIMED_ROUNDS: usize = 9;

/// Trains a small convolutional network on handwritten digits with and without batch norm, fine-tunes it with frozen statistics, and folds it for inference
///
/// The network: 3 × 3 convolutions to 16 channels, a residual block of two more, 2 × 2 pooling, one to 32 channels, the mean
/// over pixels, a dense layer. With batch norm, convolutions have no bias, and ReLU and the residual are fused into the batch
/// norm. Both networks start from the same weights and see the same batches.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Runs of each network, with seeds from --seed on
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// Where the channels stand in memory
    #[arg(long, value_enum, default_value_t = LayoutArgument::First)]
    layout: LayoutArgument,
    #[arg(long, value_enum, default_value_t = OptimizerArgument::Sgd)]
    optimizer: OptimizerArgument,
    /// Of both networks [default: 0.1 for SGD, 0.003 for Adam]
    #[arg(long)]
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

fn main() -> ExitCode {
    let arguments: Arguments = arguments::parse("240", "target/train_cnn");
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
    let (steps, seeds) = (arguments.common.steps as usize, u64::from(arguments.seeds));
    let (method, learning_rate) = arguments.method();
    println!("{method:?}, learning rate {learning_rate}, batches of {BATCH_SIZE}, {steps} steps, {seeds} seeds");
    // Two networks, and four times fine-tuning, whose steps are small.
    let tuning_steps = steps;
    let progress = Progress::new(seeds * (2 * steps + 4 * tuning_steps) as u64)?;

    let [mut with, mut without] = [const { Vec::new() }; 2];
    let mut tunings = [
        ("renamed, frozen", Task::Renamed, Statistics::Frozen, Vec::new()),
        ("renamed, of the batch", Task::Renamed, Statistics::Batch, Vec::new()),
        ("turned, frozen", Task::Turned, Statistics::Frozen, Vec::new()),
        ("turned, of the batch", Task::Turned, Statistics::Batch, Vec::new()),
    ];
    let mut folding = None;
    for seed in (arguments.common.seed..).take(seeds as usize) {
        for batch_norm in [true, false] {
            if progress.stopped() {
                break;
            }
            progress.say(format!("seed {seed}, {}", name(batch_norm)));
            let model = Cnn::new(context, arguments.layout(), batch_norm, seed)?;
            let (training, test) = (&digits.training, &digits.test);
            let trainer = fine_tuning::trainer(context, &model, training, test, BATCH_SIZE, (method, learning_rate))?;
            let mut batches = Batches::new(training.len(), BATCH_SIZE, seed);
            let looks = trainer.run(&mut batches, steps, steps.div_ceil(LOOKS), &progress);
            progress.print(&format!("seed {seed}, {:<19} {}", name(batch_norm), last(&looks)));
            if !batch_norm {
                without.push(looks);
                continue;
            }
            with.push(looks);
            folding = Some(folding::compare(context, &model, test, TIMED_ROUNDS)?);
            let saved = model.save(context)?;
            for (_, task, statistics, runs) in &mut tunings {
                progress.say(format!("seed {seed}, fine-tuning"));
                let times = ([tuning_steps, tuning_steps.div_ceil(LOOKS / 2)], seed);
                let how = (*task, *statistics);
                runs.push(fine_tuning::run(context, (&model, &saved), &digits, how, times, &progress)?);
            }
        }
    }
    progress.finish();

    println!("\ntest accuracy in %        median  lowest  highest   steps to 90 %");
    let networks = [("with batch norm", &with), ("without batch norm", &without)];
    let tunings = tunings.each_ref().map(|(name, _, _, runs)| (*name, runs));
    for (name, runs) in networks.into_iter().chain(tunings) {
        println!("{name:<24} {}", trainer::summary(runs, 0.9));
    }
    if let Some(folding) = folding {
        let [plain, folded] = folding.milliseconds;
        println!(
            "\nfolding: accuracy {:.2} % before and {:.2} % after; logits up to {:.1} differ by at most {:.1e}\n\
             {} test images in {:.2} ms before and {:.2} ms after: {:.2} times as fast (medians of rounds in turn)",
            100.0 * folding.accuracy[0],
            100.0 * folding.accuracy[1],
            folding.largest_logit,
            folding.largest_difference,
            digits.test.len(),
            plain.median,
            folded.median,
            plain.median / folded.median,
        );
    }

    let curves = |runs: &[(&str, &Vec<Vec<Look>>)], value: fn(&Look) -> Option<f64>| -> Vec<Series> {
        runs.iter().map(|(name, runs)| trainer::curve(name, runs, value)).collect()
    };
    let panel = |title: &str, y: &str, series| Lines {
        title: title.to_owned(),
        x: "training steps".to_owned(),
        y: y.to_owned(),
        series,
        ..Default::default()
    };
    let in_percent = |look: &Look| Some(100.0 * look.test.accuracy);
    let training = panel("Convolutional network", "test accuracy in %", curves(&networks, in_percent));
    let loss = Lines {
        log_y: true,
        legend: plot::Legend::UpperRight,
        ..panel("Loss", "training loss", curves(&networks, |look| look.training.map(|training| training.loss)))
    };
    let out = &arguments.common.out;
    plot::write(&out.join("training.svg"), &[Panel::Lines(training), Panel::Lines(loss)])?;
    let title = format!("Fine-tuning in batches of {}", fine_tuning::BATCH_SIZE);
    let tuning = panel(&title, "test accuracy in %, second task", curves(&tunings, in_percent));
    plot::write(&out.join("fine_tuning.svg"), &[Panel::Lines(tuning)])?;
    println!("\nplots and their data: {}", out.display());
    println!("{:.1} s on {}", start.elapsed().as_secs_f64(), context.gpu.info.name);
    Ok(())
}

const fn name(batch_norm: bool) -> &'static str {
    if batch_norm { "with batch norm" } else { "without batch norm" }
}

fn last(looks: &[Look]) -> String {
    looks.last().map_or_else(String::new, |look| {
        let loss = look.training.map_or(f64::NAN, |training| training.loss);
        format!("training loss {loss:.4}, test accuracy {:.2} %", 100.0 * look.test.accuracy)
    })
}
