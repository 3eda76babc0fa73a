//! Runs the checks and tests one after the other, and stops at the first that fails.
//!
//! All of them use the release profile, so that clippy and rustdoc share one set of dependency metadata and the tests,
//! the benchmark and the examples share one set of compiled dependencies. `cargo package` knows no profile and builds
//! for development, but without the dependencies of the tests.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::setup;
use crate::summary::{self, Format, Outcome, Reader, Row};

/// Leaves out everything that needs an adapter.
const SKIP_GPU: &str = "WGPU_BATCH_NORM_SKIP_GPU";

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub no_setup: bool,
    /// Arguments for the test harness.
    pub harness: Vec<String>,
}

/// What decides which steps can run.
#[derive(Debug, Clone, Copy)]
struct Facts {
    rustfmt: bool,
    clippy: bool,
    bench: bool,
    verify: bool,
    skip_gpu: bool,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    /// The arguments of cargo.
    arguments: Vec<String>,
    format: Format,
    /// Warnings of rustdoc are errors.
    strict_docs: bool,
    /// Why it is left out.
    skip: Option<String>,
}

impl Step {
    fn new(name: &'static str, arguments: &str) -> Self {
        let arguments = arguments.split_whitespace().map(String::from).collect();
        Self { name, arguments, format: Format::None, strict_docs: false, skip: None }
    }

    fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    fn strict_docs(self) -> Self {
        Self { strict_docs: true, ..self }
    }

    fn harness(mut self, arguments: &[String]) -> Self {
        if !arguments.is_empty() {
            self.arguments.push("--".into());
            self.arguments.extend_from_slice(arguments);
        }
        self
    }

    /// The first reason given stays.
    fn skip_if(mut self, condition: bool, reason: &str) -> Self {
        if condition && self.skip.is_none() {
            self.skip = Some(reason.into());
        }
        self
    }
}

/// The steps, the fastest to fail first.
fn steps(facts: Facts, harness: &[String]) -> Vec<Step> {
    let missing_component = "not installed";
    let no_gpu = format!("{SKIP_GPU}=1");
    let mut test_arguments = harness.to_vec();
    if facts.skip_gpu {
        test_arguments.extend(["--skip", "on_every_adapter::"].map(String::from));
    }
    vec![
        Step::new("fmt", "fmt --all --check").skip_if(!facts.rustfmt, missing_component),
        Step::new("clippy", "clippy --workspace --all-targets --release --locked -- -D warnings")
            .skip_if(!facts.clippy, missing_component),
        Step::new("doc", "doc --no-deps --locked --release").strict_docs(),
        // One failing test binary must not hide the results of the others.
        Step::new("tests", "test --release --locked --workspace --lib --bins --tests --examples --no-fail-fast")
            .format(Format::Libtest)
            .harness(&test_arguments),
        Step::new("doctests", "test --release --locked --doc -p wgpu-batch-norm")
            .format(Format::Libtest)
            .harness(harness),
        Step::new("bench", "bench --locked --bench throughput -- --test")
            .skip_if(!facts.bench, "no such benchmark")
            .skip_if(facts.skip_gpu, &no_gpu),
        Step::new("verify", "run --release --locked --example verify -- --cases tests/vectors --adapter all")
            .format(Format::Cases)
            .skip_if(!facts.verify, "no such example")
            .skip_if(facts.skip_gpu, &no_gpu),
        Step::new("package", "package --locked --allow-dirty -p wgpu-batch-norm"),
    ]
}

/// Runs everything and reports. The last line of the output is the sum of the test results.
pub fn run(options: &Options) -> ExitCode {
    let mut rows = Vec::new();
    let failure = run_steps(options, &mut rows).err().or_else(|| {
        (summary::sum(&rows).ran() == 0).then(|| String::from("no test ran, which does not count as passed"))
    });

    println!("\n{}", summary::table(&rows));
    if skip_gpu() {
        println!("{SKIP_GPU}=1: nothing was tested on a device");
    }
    if let Some(message) = &failure {
        eprintln!("xtask: {message}");
    }
    println!("{}", summary::sum(&rows));
    if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Adds a row for each step that was begun. The error is a message for the user.
fn run_steps(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let root = root();
    let mut setup_row = Row::new("setup", Format::None);
    if options.no_setup {
        println!("==> setup: skipped, --no-setup");
        setup_row.outcome = Outcome::Skipped("--no-setup".into());
        rows.push(setup_row);
    } else {
        println!("==> setup");
        let start = Instant::now();
        let result = setup::run();
        setup_row.time = start.elapsed();
        if result.is_err() {
            setup_row.outcome = Outcome::Failed;
        }
        rows.push(setup_row);
        result?;
    }
    for step in steps(facts(&root), &options.harness) {
        let (row, result) = run_step(&step, &root);
        rows.push(row);
        result?;
    }
    Ok(())
}

fn run_step(step: &Step, root: &Path) -> (Row, Result<(), String>) {
    let mut row = Row::new(step.name, step.format);
    if let Some(reason) = &step.skip {
        println!("==> {}: skipped, {reason}", step.name);
        row.outcome = Outcome::Skipped(reason.clone());
        return (row, Ok(()));
    }

    let line = format!("cargo {}", step.arguments.join(" "));
    println!("==> {}: {line}", step.name);
    let start = Instant::now();
    let mut reader = Reader::new(step.format);
    let ended = stream(step, root, &mut reader);
    row.time = start.elapsed();
    (row.counts, row.ignored) = reader.finish();

    let result = match ended {
        Err(error) => Err(format!("'{line}' could not be run: {error}")),
        Ok(false) => Err(format!("step '{}' failed, its own message is above: {line}", step.name)),
        Ok(true) => match (step.format, row.counts) {
            (Format::None, _) => Ok(()),
            (_, Some(counts)) if counts.failed > 0 => Err(format!("step '{}': {counts}", step.name)),
            (Format::Libtest, _) => Ok(()),
            // An adapter that is found and then used for nothing must not look like success.
            (Format::Cases, Some(counts)) if counts.ran() > 0 => Ok(()),
            (Format::Cases, _) => Err(format!("step '{}' ended well, but reports no case that ran", step.name)),
        },
    };
    if result.is_err() {
        row.outcome = Outcome::Failed;
    }
    println!("    {} in {:.1} s", if result.is_ok() { "ok" } else { "FAILED" }, row.time.as_secs_f64());
    (row, result)
}

/// Runs a step, passes its standard output on line by line, and tells whether it ended well.
fn stream(step: &Step, root: &Path, reader: &mut Reader) -> io::Result<bool> {
    let mut command = Command::new(cargo());
    command.args(&step.arguments).current_dir(root).stdout(Stdio::piped());
    if step.strict_docs {
        let mut flags = env::var_os("RUSTDOCFLAGS").unwrap_or_default();
        flags.push(" -D warnings");
        command.env("RUSTDOCFLAGS", flags);
    }
    let mut child = command.spawn()?;
    let copied = match child.stdout.take() {
        Some(output) => copy_lines(BufReader::new(output), io::stdout().lock(), reader),
        None => Ok(()),
    };
    // Reaps the child even if its output could not be passed on.
    let status = child.wait()?;
    copied?;
    Ok(status.success())
}

/// Lines are passed on as bytes: a test may print what is not UTF-8.
fn copy_lines(mut output: impl BufRead, mut terminal: impl Write, reader: &mut Reader) -> io::Result<()> {
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        terminal.write_all(&line)?;
        terminal.flush()?;
        reader.line(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

fn facts(root: &Path) -> Facts {
    // A target is a file of its name or a folder of its name with a `main.rs`.
    let target = |folder: &str, name: &str| {
        let folder = root.join(folder);
        folder.join(name).with_extension("rs").is_file() || folder.join(name).join("main.rs").is_file()
    };
    Facts {
        rustfmt: has_subcommand("fmt"),
        clippy: has_subcommand("clippy"),
        bench: target("benches", "throughput"),
        verify: target("examples", "verify"),
        skip_gpu: skip_gpu(),
    }
}

fn skip_gpu() -> bool {
    env::var_os(SKIP_GPU).is_some_and(|value| value == "1")
}

/// Asks for the version: rustup puts a stand-in on the path for components that are not installed.
pub fn has_subcommand(name: &str) -> bool {
    let mut command = Command::new(cargo());
    command.args([name, "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The cargo that runs this program, and so the same toolchain.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The folder of the workspace. Cargo tells it at run time too, which holds even where several checkouts share one
/// target folder.
pub fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let mut folder = PathBuf::from(package);
    folder.pop();
    folder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Counts;

    const ALL: Facts = Facts { rustfmt: true, clippy: true, bench: true, verify: true, skip_gpu: false };

    fn skipped(facts: Facts) -> Vec<&'static str> {
        steps(facts, &[]).iter().filter(|step| step.skip.is_some()).map(|step| step.name).collect()
    }

    #[test]
    fn everything_runs_where_everything_is_there() {
        assert!(skipped(ALL).is_empty());
        let names: Vec<_> = steps(ALL, &[]).iter().map(|step| step.name).collect();
        assert_eq!(names, ["fmt", "clippy", "doc", "tests", "doctests", "bench", "verify", "package"]);
    }

    #[test]
    fn what_cannot_run_is_left_out_by_name() {
        assert_eq!(skipped(Facts { rustfmt: false, clippy: false, ..ALL }), ["fmt", "clippy"]);
        assert_eq!(skipped(Facts { bench: false, verify: false, ..ALL }), ["bench", "verify"]);
        assert_eq!(skipped(Facts { skip_gpu: true, ..ALL }), ["bench", "verify"]);
    }

    #[test]
    fn the_lock_file_is_never_changed() {
        for step in steps(ALL, &[]) {
            let locked = step.arguments.iter().any(|argument| argument == "--locked");
            assert!(locked || step.name == "fmt", "{}", step.name);
        }
    }

    #[test]
    fn harness_arguments_reach_the_tests_alone() {
        for step in steps(ALL, &["--nocapture".into()]) {
            let given = step.arguments.ends_with(&["--".into(), "--nocapture".into()]);
            assert_eq!(given, step.format == Format::Libtest, "{}", step.name);
        }
    }

    #[test]
    fn lines_that_are_not_utf_8_are_copied() {
        let mut reader = Reader::new(Format::Cases);
        let output: &[u8] = b"\xff\xfe\n2 passed, 0 failed, 1 skipped";
        let mut terminal = Vec::new();
        assert!(copy_lines(output, &mut terminal, &mut reader).is_ok());
        assert_eq!(terminal, output);
        assert_eq!(reader.finish().0, Some(Counts { passed: 2, failed: 0, skipped: 1 }));
    }
}
