//! Checks the CPU reference and every chosen adapter against a folder of test vectors.
//!
//! ```text
//! cargo run --release --example verify -- --cases DIR [--adapter SUBSTRING|all] [--filter SUBSTRING] [--json FILE]
//! ```
//!
//! The folder holds `manifest.json`, a list of cases, and one safetensors file for each case with inputs, expected
//! results and tolerances, f32, f16 or bf16. A case is run in every way that the library offers, and passes only if all
//! agree with the truth: backward with saved and with recomputed statistics, and with the activation's derivative from
//! every source; statistics of many batches in those batches and in one; on devices also in place, y over x, dx over dy and
//! folded weights over weights.
//!
//! Skipped are element types, activations, layouts and tensors that are not built (f64 and mixed types, for instance), on
//! devices also cases that are flagged as beyond f32 and miss their tolerance, and what is known to fail on adapters like
//! this one (`known.rs`). Exit code: 0 if nothing failed, 1 if something did, 2 if there was nothing to run.

mod case;
mod compare;
#[cfg(test)]
mod fuzz;
mod generator;
mod known;
mod manifest;
mod probe;
mod report;
mod results;
mod run_device;
mod run_reference;
mod storage;
#[path = "../support/mod.rs"]
mod support;
mod tensors;

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::case::{Case, Rejection};
use crate::compare::{Comparison, NonFinite, compare};
use crate::manifest::Entry;
use crate::report::{Record, Status, Totals};
use crate::results::Results;
use crate::run_device::Runner;

/// Check the CPU reference and GPU adapters against a folder of test vectors.
#[derive(Parser)]
struct Arguments {
    /// Folder with manifest.json and the files that it names
    #[arg(long, value_name = "DIR")]
    cases: PathBuf,
    /// Adapters whose name, backend or driver contains this; `all` for every one [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "SUBSTRING")]
    filter: Option<String>,
    /// Write the outcome of every case as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where cases run.
enum Target {
    Reference,
    Device(Box<Runner>),
}

impl Target {
    fn name(&self) -> String {
        match self {
            Self::Reference => "CPU reference".into(),
            Self::Device(runner) => runner.name(),
        }
    }

    /// What came out of the case, or what the library said against it, a limit among it: what does not fit one is cut.
    fn run(&self, case: &Case) -> Result<Results, Rejection> {
        // A panic is a failure of this case only.
        let run = AssertUnwindSafe(|| match self {
            Self::Reference => run_reference::run(case),
            Self::Device(runner) => runner.run(case),
        });
        match catch_unwind(run) {
            Ok(Ok(results)) => Ok(results),
            Ok(Err(error)) => Err(Rejection::Malformed(format!("error: {error}"))),
            Err(panic) => Err(Rejection::Malformed(format!("panic: {}", panic_message(panic.as_ref())))),
        }
    }

    fn non_finite(&self) -> NonFinite {
        match self {
            Self::Reference => NonFinite::SameKind,
            Self::Device(_) => NonFinite::AnyKind,
        }
    }
}

fn main() -> ExitCode {
    match verify(&Arguments::parse()) {
        Ok(totals) if totals.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn verify(arguments: &Arguments) -> Result<Totals, String> {
    let mut entries = manifest::read_manifest(&arguments.cases)?;
    if let Some(filter) = &arguments.filter {
        entries.retain(|entry| entry.name.contains(filter));
    }
    let targets = open_targets(arguments.adapter.as_deref())?;
    let mut records: Vec<Vec<Record>> = targets.iter().map(|_| Vec::new()).collect();
    // Case by case, so that only one case is in memory.
    for entry in &entries {
        let case = entry.load(&arguments.cases);
        for (target, records) in targets.iter().zip(&mut records) {
            records.push(run_case(entry, &case, target));
        }
    }
    for (target, records) in targets.iter().zip(&records) {
        report::print_target(&target.name(), records);
    }
    let records: Vec<Record> = records.into_iter().flatten().collect();
    let totals = Totals::of(&records);
    println!("{totals}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&records).map_err(|error| error.to_string())?;
        fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    // A run that checked nothing is no success.
    if entries.is_empty() { Err("no case to run".into()) } else { Ok(totals) }
}

/// The reference and the adapters asked for.
fn open_targets(adapter: Option<&str>) -> Result<Vec<Target>, String> {
    let gpus = match adapter {
        Some(filter) => support::open_all(Some(filter)),
        None => support::open_best(None).into_iter().collect(),
    };
    if gpus.is_empty() {
        if adapter.is_some() {
            return Err(support::missing(adapter));
        }
        println!("{}\nReference only.\n", support::NO_ADAPTER);
    }
    let devices = gpus.into_iter().map(|gpu| Target::Device(Box::new(Runner::new(gpu))));
    Ok([Target::Reference].into_iter().chain(devices).collect())
}

/// Runs a case on a target and judges what comes out.
fn run_case(entry: &Entry, case: &Result<Case, Rejection>, target: &Target) -> Record {
    let (status, reason, results) = match case {
        Err(Rejection::Unsupported(capability)) => (Status::Skipped, capability.clone(), Vec::new()),
        Err(Rejection::Malformed(message)) => (Status::Failed, message.clone(), Vec::new()),
        Ok(case) => match target.run(case) {
            Err(Rejection::Unsupported(capability)) => (Status::Skipped, capability, Vec::new()),
            Err(Rejection::Malformed(message)) => (Status::Failed, message, Vec::new()),
            Ok(results) => judge(case, &results, target.non_finite()),
        },
    };
    let (status, reason) = match target {
        Target::Reference => (status, reason),
        Target::Device(runner) => known::revise(runner.traits(), &entry.name, status, reason, &results),
    };
    Record {
        target: target.name(),
        case: entry.name.clone(),
        source: entry.source.clone(),
        operation: entry.operation.clone(),
        status,
        reason,
        results,
    }
}

/// Compares every expected tensor with every way in which it was produced.
fn judge(case: &Case, results: &Results, rule: NonFinite) -> (Status, String, Vec<Comparison>) {
    let mut problems = results.problems.clone();
    let mut comparisons = Vec::new();
    for truth in &case.truths {
        let mut produced = results.produced.iter().filter(|produced| produced.tensor == truth.tensor).peekable();
        if produced.peek().is_none() {
            problems.push(format!("`{}` is expected but not produced", truth.name));
        }
        for produced in produced {
            match compare(truth, &produced.values, case.problem, &case.samples, rule) {
                Ok(comparison) => {
                    let tensor = format!("{}{}", truth.name, produced.variant.suffix());
                    comparisons.push(Comparison { tensor, ..comparison });
                }
                Err(message) => problems.push(message),
            }
        }
    }
    let beyond: Vec<&str> = comparisons
        .iter()
        .filter(|comparison| !comparison.within_tolerance())
        .map(|comparison| comparison.tensor.as_str())
        .collect();
    let (status, reason) = match (problems.is_empty(), beyond.is_empty()) {
        (true, true) => (Status::Passed, String::new()),
        (true, false) if case.stretch => (Status::Skipped, "stretch: beyond float32".into()),
        (true, false) => (Status::Failed, format!("beyond tolerance: {}", beyond.join(", "))),
        (false, _) => (Status::Failed, problems.join("; ")),
    };
    (status, reason, comparisons)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
