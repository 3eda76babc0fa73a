//! What every example is told on the command line, and what it does before and after its own.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use super::context::Context;
use super::support;

/// Arguments of all examples; the defaults are each example's own.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Training steps of each run
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: u32,
    /// Seed of initial weights and of the order of batches; further runs take those after it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs of everything, with seeds from --seed on
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub seeds: u32,
    /// The adapter whose name, backend or driver contains this (any case) [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    pub adapter: Option<String>,
    /// The folder for plots (SVG) and their data (CSV)
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

/// The `main` of an example: reads the command line, opens the adapter, runs, and says where the results are or what went wrong.
pub fn main<A: Parser>(
    [steps, out]: [&'static str; 2],
    common: fn(&A) -> &Common,
    run: impl FnOnce(&A, &Context) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let arguments: A = parse(steps, out);
    let (common, start) = (common(&arguments), Instant::now());
    support::main(common.adapter.as_deref(), |gpu| {
        let context = Context::new(gpu);
        run(&arguments, &context)?;
        println!("plots and their data: {}", common.out.display());
        println!("{:.1} s on {}", start.elapsed().as_secs_f64(), context.gpu.info.name);
        Ok::<_, Box<dyn Error>>(ExitCode::SUCCESS)
    })
}

/// The command line, with an example's defaults of `--steps` and `--out`.
pub fn parse<A: Parser>(steps: &'static str, out: &'static str) -> A {
    match A::from_arg_matches(&command::<A>(steps, out).get_matches()) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    }
}

/// As [`parse`], without looking at the command line.
pub fn command<A: Parser>(steps: &'static str, out: &'static str) -> clap::Command {
    let default = |value: &'static str| move |argument: clap::Arg| argument.default_value(value).required(false);
    A::command().mut_arg("steps", default(steps)).mut_arg("out", default(out))
}

/// A learning rate, or anything else that makes sense above 0 alone.
///
/// # Errors
/// For what is not a finite number above 0.
pub fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("it must be a finite number above 0".to_owned()),
    }
}

impl Common {
    /// The seeds of the runs.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        (self.seed..).take(self.seeds as usize)
    }
}
