//! What batch norm is said to do, measured over learning rates, initial weights, depth, data and batch sizes.
//!
//! `cargo run --release --example study -- --help`
//!
//! Where to look: every part is a file of its own, with the claim that it is about; `model.rs` binds the network that they all
//! train, once, and starts it again for every run.

mod batches;
mod depth;
mod gap;
mod landscape;
mod model;
#[path = "../network/mod.rs"]
mod network;
mod sweep;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use network::arguments::{self, Common};
use network::context::Context;
use network::digits::Digits;
use network::plot::{self, Panel};
use network::progress::Progress;

/// Measures what batch norm does over learning rates, initial weights, depth, data and batch sizes
///
/// Fully connected networks on the digits, trained by plain SGD. Every part draws pictures with its values beside them; medians
/// and extremes are those over the seeds. A seed gives the same weights and batches to all variants. Runs of *gap* take up to five
/// times --steps, those of *batches* twice as many.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// What to measure, one or several [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Test accuracy over learning rate and scale of the initial weights
    Sweep,
    /// Gradients of each layer of a deep network
    Depth,
    /// The gap between training and test, from few images
    Gap,
    /// The loss along its gradient
    Landscape,
    /// Small batches: plain, renormalised, frozen and in sub-batches
    Batches,
}

impl Part {
    /// Training steps of all its runs.
    fn steps(self, study: &Study<'_>) -> usize {
        let runs = match self {
            Self::Sweep => sweep::RUNS,
            Self::Depth => depth::RUNS,
            Self::Gap => gap::RUNS,
            Self::Landscape => landscape::RUNS,
            Self::Batches => batches::RUNS,
        };
        runs * study.seeds.len() * study.steps
    }

    fn run(self, study: &Study<'_>) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Sweep => sweep::run(study),
            Self::Depth => depth::run(study),
            Self::Gap => gap::run(study),
            Self::Landscape => landscape::run(study),
            Self::Batches => batches::run(study),
        }
    }
}

/// What all parts share.
struct Study<'c> {
    context: &'c Context,
    digits: Digits,
    steps: usize,
    seeds: Vec<u64>,
    out: PathBuf,
    progress: Progress,
}

impl Study<'_> {
    fn seeds(&self) -> impl Iterator<Item = u64> {
        self.seeds.iter().copied()
    }

    /// Draws what was measured; where a stop came before anything was, says so.
    fn draw(&self, name: &str, panels: &[Panel]) -> Result<(), Box<dyn Error>> {
        if panels.iter().any(Panel::has_values) {
            plot::write(&self.out.join(name).with_extension("svg"), panels)?;
        } else {
            println!("{name}: nothing was measured");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    arguments::main(["150", "target/study"], |arguments: &Arguments| &arguments.common, run)
}

fn run(arguments: &Arguments, context: &Context) -> Result<(), Box<dyn Error>> {
    let mut study = Study {
        context,
        digits: Digits::load(),
        steps: arguments.common.steps as usize,
        seeds: arguments.common.seeds().collect(),
        out: arguments.common.out.clone(),
        progress: Progress::hidden(),
    };
    let parts = if arguments.part.is_empty() { Part::value_variants() } else { &arguments.part };
    study.progress = Progress::new(parts.iter().map(|part| part.steps(&study) as u64).sum())?;
    println!("{} steps a run, {} seeds", study.steps, study.seeds.len());
    for part in parts {
        if study.progress.stopped() {
            break;
        }
        let begin = Instant::now();
        part.run(&study)?;
        study.progress.print(&format!("{:.1} s\n", begin.elapsed().as_secs_f64()));
    }
    study.progress.finish();
    Ok(())
}
