//! Trains a small network on handwritten digits, once with and once without batch norm, wholly on the GPU.
//!
//! `cargo run --release --example train_digits -- --help`
//!
//! The experiment of section 4.1 of *Batch Normalization* (Ioffe and Szegedy, 2015, arXiv 1502.03167): three hidden fully
//! connected layers of 100 sigmoid units, small Gaussian weights, batches of 60, plain gradient descent. The paper trains on
//! MNIST for 50,000 steps; here it is 1,437 digits of 8 × 8 pixels and fewer steps. Both runs share the initial weights, the
//! order of the batches and the learning rate.
//!
//! Where to look: `model_gpu.rs` is the network on the device, over the example library, `examples/network`, whose `norm.rs` links
//! the crate; `model_cpu.rs` is the same on the CPU reference, `history.rs` the training loop for both.

mod architecture;
mod checks;
mod figure;
mod history;
mod model;
mod model_cpu;
mod model_gpu;
#[path = "../network/mod.rs"]
mod network;
mod report;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use architecture::Architecture;
use checks::InferenceDifference;
use history::History;
use model::Model;
use model_cpu::CpuModel;
use model_gpu::GpuModel;
use network::arguments::{self, Common};
use network::context::Context;
use network::digits::{Batches, CLASSES, Digits, PIXELS};
use network::progress::Progress;
use network::support;

/// The paper's network: three hidden layers of 100.
const WIDTHS: [usize; 5] = [PIXELS, 100, 100, 100, CLASSES];
/// As in the paper.
const BATCH_SIZE: usize = 60;
/// The paper says "small random Gaussian values", without a number.
const WEIGHT_DEVIATION: f32 = 0.1;
/// How often a run looks at the test accuracy.
const LOOKS: usize = 60;
/// Steps that device and CPU train side by side before the runs.
const COMPARED_STEPS: usize = 5;
/// What they may differ by then, as a share of the largest change. Rounding gives about 1e-5; a wrong gradient, about 1.
const ALLOWED_DIFFERENCE: f64 = 1e-3;

/// Trains on handwritten digits with and without batch norm and compares
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Of both networks; the default lets the one without batch norm do well too, smaller ones hold it back
    #[arg(long, default_value_t = 0.5, value_parser = arguments::positive)]
    learning_rate: f32,
    /// Run on the CPU reference path even if there is an adapter
    #[arg(long, conflicts_with = "adapter")]
    cpu: bool,
}

fn main() -> ExitCode {
    let arguments: Arguments = arguments::parse("3000", "target/train_digits");
    let filter = arguments.common.adapter.as_deref();
    let gpu = if arguments.cpu { None } else { support::open_best(filter) };
    match &gpu {
        Some(gpu) => println!("adapter: {gpu}"),
        None if arguments.cpu => println!("adapter: none, on the CPU reference path as asked"),
        None if filter.is_some() => {
            eprintln!("{}", support::missing(filter));
            return ExitCode::from(2);
        }
        None => println!("{}\nadapter: none, on the CPU reference path", support::NO_ADAPTER),
    }
    match run(&arguments, gpu.map(Context::new).as_ref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Compares, trains, reports; false when a check fails.
fn run(arguments: &Arguments, context: Option<&Context>) -> Result<bool, Box<dyn Error>> {
    let start = Instant::now();
    let digits = Digits::load();
    let Common { steps, seeds, seed, .. } = arguments.common;
    let steps = steps as usize;
    let setup = |seed| Setup { digits: &digits, seed, learning_rate: arguments.learning_rate };
    println!(
        "{} training and {} test digits, {steps} steps, batches of {BATCH_SIZE}, learning rate {}, {seeds} seeds from {seed} on",
        digits.training.len(),
        digits.test.len(),
        arguments.learning_rate,
    );
    let agree = match context {
        Some(context) => setup(seed).compare_with_cpu(context)?,
        None => true,
    };

    let progress = Progress::new((2 * seeds as usize * steps) as u64)?;
    let [mut with, mut without] = [const { Vec::new() }; 2];
    let mut inference = InferenceDifference::default();
    for seed in arguments.common.seeds() {
        for (batch_norm, runs) in [(true, &mut with), (false, &mut without)] {
            progress.say(format!("seed {seed}, {}", if batch_norm { "with batch norm" } else { "without" }));
            let setup = setup(seed);
            let mut model = setup.model(context, batch_norm)?;
            let history = History::train(&mut *model, setup.batches(), steps, steps.div_ceil(LOOKS), &progress)?;
            inference = inference.worst(checks::inference(&model.inference_records()?)?);
            // A run that was cut short is better than none, and worse than those that were not.
            if runs.is_empty() || !progress.stopped() {
                runs.push(history);
            }
        }
        if progress.stopped() {
            break;
        }
    }
    progress.finish();

    println!();
    report::print_table(&with, &without);
    println!();
    report::print_summary(&with, &without);
    report::print_inference(&inference);
    let place = context.map_or_else(|| "CPU reference path".to_owned(), |context| context.gpu.info.name.clone());
    let plot = arguments.common.out.join("figure_1.svg");
    figure::write(&plot, &place, &with, &without)
        .map_err(|error| format!("the plot {} cannot be written: {error}", plot.display()))?;
    println!("plot: {}", plot.display());
    println!("{:.1} s on {place}", start.elapsed().as_secs_f64());
    Ok(agree && inference.passes())
}

/// What both runs of a seed share.
struct Setup<'d> {
    digits: &'d Digits,
    seed: u64,
    learning_rate: f32,
}

impl<'d> Setup<'d> {
    fn batches(&self) -> Batches {
        Batches::new(self.digits.training.len(), BATCH_SIZE, self.seed)
    }

    /// A network before its first step, on the device if there is one.
    fn model<'c>(
        &self,
        context: Option<&'c Context>,
        batch_norm: bool,
    ) -> Result<Box<dyn Model + 'c>, wgpu_batch_norm::Error>
    where
        'd: 'c,
    {
        let architecture = Architecture::new(&WIDTHS, batch_norm);
        let parameters = architecture.initial_parameters(WEIGHT_DEVIATION, self.seed);
        let rate = self.learning_rate;
        Ok(match context {
            Some(context) => {
                Box::new(GpuModel::new(context, self.digits, &architecture, &parameters, BATCH_SIZE, rate)?)
            }
            None => Box::new(CpuModel::new(self.digits, &architecture, &parameters, BATCH_SIZE, rate)?),
        })
    }

    /// Trains the device and the CPU side by side for some steps; false when they part.
    fn compare_with_cpu(&self, context: &Context) -> Result<bool, wgpu_batch_norm::Error> {
        let mut worst = 0.0_f64;
        for batch_norm in [true, false] {
            let mut models = [self.model(Some(context), batch_norm)?, self.model(None, batch_norm)?];
            let initial = models[1].parameters();
            for model in &mut models {
                model.train(&self.batches().take(COMPARED_STEPS))?;
            }
            let difference = checks::parameter_difference(&initial, &*models[0], &*models[1]);
            worst = if difference > worst || difference.is_nan() { difference } else { worst };
        }
        let agree = worst <= ALLOWED_DIFFERENCE;
        let verdict = if agree { "ok" } else { "FAILED" };
        println!(
            "{COMPARED_STEPS} steps on the device against the CPU: {verdict}; parameters differ by at most {worst:.1e} of their largest \
             change ({ALLOWED_DIFFERENCE:.0e} allowed)"
        );
        Ok(agree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod on_every_adapter {
        use super::*;

        #[test]
        fn device_and_cpu_train_alike() {
            let all = support::open_all(None);
            assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
            let digits = Digits::load();
            for context in all.into_iter().map(Context::new) {
                let setup = Setup { digits: &digits, seed: 2, learning_rate: 0.5 };
                assert!(setup.compare_with_cpu(&context).unwrap(), "{}", context.gpu);
            }
        }
    }
}
