//! Measures how far every operation is from f64 truth, over means of 1 to 1e7 deviations, 2^6 to 2^26 elements a channel and all
//! element types, beside PyTorch's CPU kernels on the same inputs.
//!
//! ```text
//! cargo run --release --example error_study -- [--adapter SUBSTRING] [--element NAME] [--variant NAME] [--shortest LOG2]
//!     [--longest LOG2] [--csv FILE]
//! ```
//!
//! Prints the worst error of every quantity with PyTorch's beside it, and with `--csv` writes those of each case. `pytorch.py` measures
//! PyTorch and writes `pytorch.csv`; `tables.py` makes the tables of `docs/accuracy.md` from both. `study/measure.rs` says what an
//! error is. The longest need about 5 GiB of memory.
//!
//! Exit code: 0 if all was measured, 1 if a case could not be run, 2 if there was nothing to run on.

mod study;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use wgpu_batch_norm::Kernels;

use crate::study::{Case, Data, Errors, Peers, Quantity};

/// Measure the errors of every operation against f64 truth, beside PyTorch's
#[derive(Parser)]
struct Arguments {
    /// The adapter whose name, backend or driver contains this [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// The longest reduction, as a power of two
    #[arg(long, value_name = "LOG2", default_value_t = 26)]
    longest: u32,
    /// The shortest reduction, as a power of two
    #[arg(long, value_name = "LOG2", default_value_t = 0)]
    shortest: u32,
    /// One of f32, f16, bf16 [default: all]
    #[arg(long, value_name = "NAME")]
    element: Option<String>,
    /// One of whole, parts, windows, segments, silu, gelu [default: all]
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Where to write the errors of each case
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The figures of PyTorch
    #[arg(long, value_name = "FILE", default_value = "examples/error_study/pytorch.csv")]
    pytorch: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let gpu = support::open_best(arguments.adapter.as_deref());
    let gpu = gpu.ok_or_else(|| support::missing(arguments.adapter.as_deref()))?;
    let peers = match std::fs::read_to_string(&arguments.pytorch) {
        Ok(text) => Some(Peers::parse(&text)?),
        Err(error) => {
            eprintln!("{}: {error}: PyTorch's figures are left out", arguments.pytorch.display());
            None
        }
    };
    println!("{gpu}");
    let kernels = Kernels::new(&gpu.device);
    let mut failed = false;
    let mut csv = format!("# {gpu}\n{}\n", heading());
    let mut worst = vec![(0.0_f64, String::new()); Quantity::ALL.len()];
    let wanted = |case: &Case| {
        let variant = arguments.variant.as_deref().is_none_or(|name| name == case.variant_name());
        let element = arguments.element.as_deref().is_none_or(|name| name == case.element_name());
        variant && element && (arguments.shortest..=arguments.longest).contains(&case.length_log2)
    };
    for case in study::grid().iter().filter(|case| wanted(case)) {
        let start = Instant::now();
        let data = Data::new(case);
        let theirs = peers.as_ref().and_then(|peers| peers.get(case));
        if theirs.is_some() && peers.as_ref().is_some_and(|peers| !peers.are_of(case, &data)) {
            return Err(format!("{case}: PyTorch's figures are of other inputs"));
        }
        let errors = match study::errors_of(&gpu, &kernels, case, &data) {
            Ok(errors) => errors,
            Err(error) => {
                eprintln!("{case}: {error}");
                failed = true;
                continue;
            }
        };
        let _ = writeln!(csv, "{}", row(case, &data, &errors));
        let mut line = format!("{case}: {:.1} s:", start.elapsed().as_secs_f64());
        for (quantity, worst) in Quantity::ALL.into_iter().zip(&mut worst) {
            let Some(error) = errors.get(quantity) else { continue };
            let peer = theirs.and_then(|theirs| theirs.get(quantity));
            let peer = peer.map_or(String::new(), |peer| format!(" / {peer:.3}"));
            let _ = write!(line, "  {} {error:.3}{peer}", quantity.name());
            if error > worst.0 {
                *worst = (error, format!("{case}{peer}"));
            }
        }
        println!("{line}");
    }
    println!("\nworst, in roundoffs of the result's type, PyTorch's after a slash:");
    for (quantity, (error, place)) in Quantity::ALL.into_iter().zip(&worst) {
        println!("{:18} {error:8.3}  {place}", quantity.name());
    }
    if let Some(path) = &arguments.csv {
        std::fs::write(path, csv).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn heading() -> String {
    let names = Quantity::ALL.map(Quantity::name).join(",");
    format!("element,arrangement,variant,ratio_log10,length_log2,inputs,{names}")
}

fn row(case: &Case, data: &Data, errors: &Errors) -> String {
    let names = (case.element_name(), case.arrangement_name(), case.variant_name());
    let values =
        Quantity::ALL.map(|quantity| errors.get(quantity).map_or(String::new(), |error| format!("{error:.3}")));
    let (ratio, length) = (case.decade(), case.length_log2);
    format!("{},{},{},{ratio},{length},{:016x},{}", names.0, names.1, names.2, data.digest(), values.join(","))
}
