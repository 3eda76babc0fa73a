//! Trains a small network on handwritten digits, once with and once without batch norm, wholly on the GPU.
//!
//! `cargo run --release --example train_digits -- --help`
//!
//! The experiment of section 4.1 of *Batch Normalization* (Ioffe and Szegedy, 2015, arXiv 1502.03167): three hidden fully
//! connected layers of 100 sigmoid units, small Gaussian weights, batches of 60, plain gradient descent. The paper trains on
//! MNIST for 50,000 steps; here it is 1,437 digits of 8 × 8 pixels and fewer steps. Both runs share the initial weights, the
//! order of the batches and the learning rate.
//!
//! Where to look: `network_gpu.rs` links the crate, `dense.rs` and `kernels/` are the rest of a network, `network_cpu.rs` is
//! the same on the CPU reference, `history.rs` the training loop.

mod architecture;
mod checks;
#[path = "../network/digits.rs"]
mod data;
mod dense;
mod figure;
mod history;
mod network;
mod network_cpu;
mod network_gpu;
#[path = "../network/plot.rs"]
#[allow(dead_code, reason = "each program uses its part")]
mod plot;
#[path = "../network/progress.rs"]
#[allow(dead_code, reason = "each program uses its part")]
mod progress;
mod report;
#[path = "../support/mod.rs"]
mod support;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use architecture::Architecture;
use checks::InferenceDifference;
use data::{Batches, CLASSES, Digits, PIXELS};
use history::History;
use network::Network;
use network_cpu::CpuNetwork;
use network_gpu::GpuNetwork;
use progress::Progress;
use support::Gpu;

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

/// Trains on handwritten digits with and without batch norm and compares.
#[derive(Debug, Parser)]
struct Arguments {
    /// Training steps of each run.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Seed of the initial weights and of the order of the batches.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Learning rate of both runs; the default lets the run without batch norm do well too, smaller ones hold it back.
    #[arg(long, default_value_t = 0.5, value_parser = positive)]
    learning_rate: f32,
    /// Use the adapter whose name, backend or driver contains this (any case).
    #[arg(long, conflicts_with = "cpu")]
    adapter: Option<String>,
    /// Run on the CPU reference path even if there is an adapter.
    #[arg(long)]
    cpu: bool,
    /// Where to write the plot, figure 1 of the paper; its values go into a CSV file beside it.
    #[arg(long, default_value = "target/train_digits.svg")]
    out: PathBuf,
}

fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("it must be a finite number above 0".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let gpu = if arguments.cpu { None } else { support::open_best(arguments.adapter.as_deref()) };
    match (&gpu, &arguments.adapter) {
        (Some(gpu), _) => println!("adapter: {gpu}"),
        (None, _) if arguments.cpu => println!("adapter: none, on the CPU reference path as asked"),
        (None, Some(filter)) => {
            eprintln!("No adapter contains \"{filter}\" in its name, backend or driver. There are:");
            let all = support::open_all(None);
            all.iter().for_each(|gpu| eprintln!("  {gpu}"));
            if all.is_empty() {
                eprintln!("  none. {}", support::NO_ADAPTER);
            }
            return ExitCode::from(2);
        }
        (None, None) => println!("{}\nadapter: none, on the CPU reference path", support::NO_ADAPTER),
    }
    match run(&arguments, gpu.as_ref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Compares, trains, reports; false when a check fails.
fn run(arguments: &Arguments, gpu: Option<&Gpu>) -> Result<bool, Box<dyn Error>> {
    let start = Instant::now();
    let digits = Digits::load();
    let setup = Setup { digits: &digits, seed: arguments.seed, learning_rate: arguments.learning_rate };
    let steps = arguments.steps as usize;
    println!(
        "{} training and {} test digits, {} steps, batches of {BATCH_SIZE}, learning rate {}, seed {}",
        digits.training.len(),
        digits.test.len(),
        steps,
        arguments.learning_rate,
        arguments.seed,
    );
    let agree = match gpu {
        Some(gpu) => setup.compare_with_cpu(gpu)?,
        None => true,
    };

    let progress = Progress::new(2 * u64::from(arguments.steps))?;
    let train = |batch_norm: bool| -> Result<_, wgpu_batch_norm::Error> {
        progress.say(if batch_norm { "with batch norm" } else { "without batch norm" });
        let mut network = setup.network(gpu, batch_norm)?;
        let history = History::train(&mut *network, setup.batches(), steps, steps.div_ceil(LOOKS), &progress)?;
        Ok((history, checks::inference(&network.inference_records())?))
    };
    let (with, inference) = train(true)?;
    let (without, _) = train(false)?;
    progress.finish();

    println!();
    report::print_table(&with, &without);
    println!();
    report::print_summary(&with, &without);
    print_inference(&inference);
    let place = gpu.map_or_else(|| "CPU reference path".to_owned(), |gpu| gpu.info.name.clone());
    figure::write(&arguments.out, &place, &with, &without)
        .map_err(|error| format!("the plot {} cannot be written: {error}", arguments.out.display()))?;
    println!("plot: {}", arguments.out.display());
    println!("{:.1} s on {place}", start.elapsed().as_secs_f64());
    Ok(agree && inference.passes())
}

fn print_inference(inference: &InferenceDifference) {
    let verdict = if inference.passes() { "ok" } else { "FAILED" };
    println!(
        "inference mode against the CPU reference: {verdict}; {} values differ by at most {:.2e}, {:.2} of {} allowed ulps",
        inference.values,
        inference.largest,
        inference.largest_ulps,
        checks::ALLOWED_ULPS
    );
}

/// What both runs share.
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
    fn network<'g>(
        &self,
        gpu: Option<&'g Gpu>,
        batch_norm: bool,
    ) -> Result<Box<dyn Network + 'g>, wgpu_batch_norm::Error>
    where
        'd: 'g,
    {
        let architecture = Architecture::new(&WIDTHS, batch_norm);
        let parameters = architecture.initial_parameters(WEIGHT_DEVIATION, self.seed);
        Ok(match gpu {
            Some(gpu) => {
                let rate = self.learning_rate;
                Box::new(GpuNetwork::new(gpu, self.digits, &architecture, &parameters, BATCH_SIZE, rate)?)
            }
            None => Box::new(CpuNetwork::new(self.digits, &architecture, &parameters, BATCH_SIZE, self.learning_rate)?),
        })
    }

    /// Trains the device and the CPU side by side for some steps; false when they part.
    fn compare_with_cpu(&self, gpu: &Gpu) -> Result<bool, wgpu_batch_norm::Error> {
        let mut worst = 0.0_f64;
        for batch_norm in [true, false] {
            let mut networks = [self.network(Some(gpu), batch_norm)?, self.network(None, batch_norm)?];
            let initial = networks[1].parameters();
            for network in &mut networks {
                network.train(&self.batches().take(COMPARED_STEPS))?;
            }
            let difference = checks::parameter_difference(&initial, &*networks[0], &*networks[1]);
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
