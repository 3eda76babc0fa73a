//! Runs the checks and tests one after the other, those that use one core side by side. A step that fails does not hide what the
//! others say.
//!
//! All of them use the release profile, so that the tests, the benchmark and the examples share one set of compiled
//! dependencies, and clippy and rustdoc metadata of those that have the same features without the tests. `cargo package` knows
//! no profile and builds for development, but without the dependencies of the tests.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::drivers::{self, Drivers};
use crate::layers;
use crate::setup;
use crate::summary::{self, Counts, Format, Outcome, Reader, Row};

/// Tells the tests of shaders where spirv-val is.
const SPIRV_VAL: &str = "WGPU_BATCH_NORM_SPIRV_VAL";

/// Tells them where Tint is.
const TINT: &str = "WGPU_BATCH_NORM_TINT";

/// Leaves the device tests at the plans of some classes of machine. Compiling takes minutes on software drivers, so that
/// where there are several, they share the classes out; `verify` takes those of the adapter's own class on each.
const PLANS: &str = "WGPU_BATCH_NORM_PLANS";

/// Has the device tests fail where no adapter has this in its name: a loader that is too old for the variables that choose
/// drivers goes on with another.
const ADAPTER: &str = "WGPU_BATCH_NORM_ADAPTER";

/// Tests that a test binary runs at once.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// Leaves out everything that needs an adapter.
const SKIP_GPU: &str = "WGPU_BATCH_NORM_SKIP_GPU";

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub no_setup: bool,
    /// A driver or validator that is missing is a failure.
    pub every_driver: bool,
    /// Ends with the first step that fails.
    pub fail_fast: bool,
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
    /// The user chose backends of wgpu.
    backends_chosen: bool,
    /// There is a GPU, to which the plans of every class matter.
    gpu: bool,
    /// Tests at once where they wait for each other, unless the user chose.
    threads: Option<usize>,
}

/// Steps that run beside each other, as many at once as there are cores: each uses one core for most of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Builds that share nothing, of which each has one long chain of dependencies.
    Builds,
    /// Programs for shaders, further builds of the library, and jobs whose ranks wait for each other.
    Small,
    /// The suites of the further drivers, and the test vectors. wgpu's OpenGL backend panics where a thread has waited long for
    /// another, as on a busy machine, so that nothing with many processes is beside it.
    Devices,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    /// The arguments of cargo.
    arguments: Vec<String>,
    format: Format,
    /// Warnings of rustdoc are errors.
    strict_docs: bool,
    environment: Vec<(&'static str, OsString)>,
    /// The user filters no tests, so that one must run.
    unfiltered: bool,
    /// Runs under the validation layer, and what that shows.
    layers: Option<layers::Expected>,
    /// Those that it runs beside, if any.
    group: Option<Group>,
    /// Why it is left out.
    skip: Option<String>,
    /// What it needs and this machine lacks.
    missing: Option<String>,
}

impl Step {
    fn new(name: &'static str, arguments: &str) -> Self {
        let arguments = arguments.split_whitespace().map(String::from).collect();
        Self {
            name,
            arguments,
            format: Format::None,
            strict_docs: false,
            environment: Vec::new(),
            unfiltered: false,
            layers: None,
            group: None,
            skip: None,
            missing: None,
        }
    }

    fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    fn strict_docs(self) -> Self {
        Self { strict_docs: true, ..self }
    }

    fn among(self, group: Group) -> Self {
        Self { group: Some(group), ..self }
    }

    fn harness(mut self, arguments: &[String]) -> Self {
        if !arguments.is_empty() {
            self.arguments.push("--".into());
            self.arguments.extend_from_slice(arguments);
        }
        self
    }

    fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Where there is the layer.
    fn under_layers(self, drivers: &Drivers, expected: layers::Expected) -> Self {
        Self { layers: drivers.layers.is_ok().then_some(expected), ..self }
    }

    fn needs<T>(mut self, found: &drivers::Found<T>) -> Self {
        self.missing = self.missing.or_else(|| found.as_ref().err().cloned());
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
fn steps(facts: Facts, drivers: &Drivers, harness: &[String]) -> Vec<Step> {
    let missing_component = "not installed";
    let no_gpu = format!("{SKIP_GPU}=1");
    // Only Mesa's OpenGL driver can be given something that its compiler refuses.
    let compiler = "what_a_driver_does_not_compile";
    let mut test_arguments = harness.to_vec();
    if !facts.backends_chosen {
        test_arguments.splice(0..0, ["--skip", compiler].map(String::from));
    }
    if facts.skip_gpu {
        test_arguments.extend(["--skip", "on_every_adapter::"].map(String::from));
    }
    // OpenGL has steps of its own.
    let native = |step: Step| if facts.backends_chosen { step } else { step.set("WGPU_BACKEND", "vulkan,metal,dx12") };
    let tests = |name, skipped: &[&str]| {
        let skipped = skipped.iter().flat_map(|test| ["--skip", test]).map(String::from);
        let harness: Vec<String> = skipped.chain(harness.iter().cloned()).collect();
        Step::new(name, "test --release --locked --test device --no-fail-fast")
            .format(Format::Libtest)
            .harness(&harness)
            .set(PLANS, "discrete")
            .among(Group::Devices)
            .skip_if(facts.skip_gpu, &no_gpu)
    };
    // The plans that programs get on these drivers, for one test that meets everything.
    let own_class = |name| {
        let test = "every_operation_meets_the_reference_on_every_shape";
        Step::new(name, &format!("test --release --locked --test device {test}"))
            .format(Format::Libtest)
            .harness(harness)
            .set(PLANS, "cpu")
            .among(Group::Devices)
            .skip_if(facts.skip_gpu, &no_gpu)
    };
    let verify = |name, adapter| {
        let command = "run --release --locked --example verify -- --cases tests/vectors --adapter";
        Step::new(name, &format!("{command} {adapter}"))
            .format(Format::Cases)
            .among(Group::Devices)
            .skip_if(!facts.verify, "no such example")
            .skip_if(facts.skip_gpu, &no_gpu)
    };
    let swiftshader = |step: Step| {
        let manifest = drivers.swiftshader.clone().unwrap_or_default();
        let step = step.needs(&drivers.swiftshader).set(ADAPTER, "SwiftShader");
        step.set("WGPU_BACKEND", "vulkan").set("VK_DRIVER_FILES", manifest)
    };
    let gl = |step: Step| step.needs(&drivers.gl).set("WGPU_BACKEND", "gl");
    // Jobs of several ranks, which the tests start themselves.
    let mpi = |name| {
        native(Step::new(name, "test --release --locked --features mpi --test mpi").format(Format::Libtest))
            .among(Group::Small)
            .needs(&drivers.mpi)
            .skip_if(facts.skip_gpu, &no_gpu)
    };
    let mut ignored = vec![String::from("--ignored")];
    ignored.extend_from_slice(harness);
    let in_turn = [&[String::from("adapters_in_turn")][..], harness].concat();
    let ignored_but = |other: &str| [&["--ignored", "--skip", other].map(String::from)[..], harness].concat();
    let spirv_val = drivers.spirv_val.clone().unwrap_or_default();
    let tint = drivers.tint.clone().unwrap_or_default();

    // One failing test binary must not hide the results of the others.
    let mut main_tests =
        Step::new("tests", "test --release --locked --workspace --lib --bins --tests --examples --no-fail-fast")
            .format(Format::Libtest)
            .harness(&test_arguments);
    if !facts.gpu && drivers.swiftshader.is_ok() {
        main_tests = main_tests.set(PLANS, "cpu,integrated");
        // A test waits for each of the two, and is done when the later one is.
        if let Some(threads) = facts.threads {
            main_tests = main_tests.set(TEST_THREADS, threads.to_string());
        }
    }
    let silent = |step: Step| swiftshader(step).under_layers(drivers, layers::Expected::Silence);
    // A few dispatches will do.
    let one_case = "SwiftShader --filter adv.add_relu.nchw.2x3x13x1.infer";
    let mut steps = vec![
        Step::new("fmt", "fmt --all --check").skip_if(!facts.rustfmt, missing_component),
        Step::new("clippy", "clippy --workspace --all-targets --release --locked -- -D warnings")
            .skip_if(!facts.clippy, missing_component),
        Step::new("doc", "doc --no-deps --locked --release").strict_docs().among(Group::Builds),
        // Nobody debugs what it builds.
        Step::new("package", "package --locked --allow-dirty -p wgpu-batch-norm")
            .among(Group::Builds)
            .set("CARGO_PROFILE_DEV_DEBUG", "0"),
        native(main_tests),
        mpi("MPI").harness(harness),
        // What needs the feature and no ranks.
        Step::new("MPI, alone", "test --release --locked --features mpi --lib --test careless exchange::mpi")
            .format(Format::Libtest)
            .among(Group::Small)
            .harness(&[&[String::from("send_and_sync")][..], harness].concat())
            .needs(&drivers.mpi),
        Step::new("doctests", "test --release --locked --doc -p wgpu-batch-norm")
            .format(Format::Libtest)
            .among(Group::Small)
            .harness(harness),
        Step::new("tracing", "test --release --locked --features tracing --test tracing")
            .format(Format::Libtest)
            .among(Group::Small)
            .harness(harness),
        Step::new("spirv-val", "test --release --locked --test shaders")
            .format(Format::Libtest)
            .among(Group::Small)
            .harness(&ignored_but("tint"))
            .needs(&drivers.spirv_val)
            .set(SPIRV_VAL, spirv_val),
        Step::new("Tint", "test --release --locked --test shaders")
            .format(Format::Libtest)
            .among(Group::Small)
            .harness(&ignored_but("spirv_val"))
            .needs(&drivers.tint)
            .set(TINT, tint),
        native(
            Step::new("bench", "bench --locked --bench throughput -- --test")
                .among(Group::Small)
                .skip_if(!facts.bench, "no such benchmark")
                .skip_if(facts.skip_gpu, &no_gpu),
        ),
        // A batch in parts over adapters of different drivers, in one process.
        Step::new("drivers together", "test --release --locked --test device ranks_may_have_devices_of_their_own")
            .format(Format::Libtest)
            .among(Group::Small)
            .harness(harness)
            .needs(&drivers.swiftshader)
            .set(ADAPTER, "SwiftShader")
            .set("VK_ADD_DRIVER_FILES", drivers.swiftshader.clone().unwrap_or_default())
            .skip_if(facts.skip_gpu, &no_gpu),
        mpi("MPI, hosts").harness(&ignored).needs(&drivers.hosts),
        // Ranks of one job on different drivers.
        mpi("MPI, drivers together")
            .harness(&in_turn)
            .needs(&drivers.swiftshader)
            .set(ADAPTER, "SwiftShader")
            .set("VK_ADD_DRIVER_FILES", drivers.swiftshader.clone().unwrap_or_default()),
        silent(tests("tests, SwiftShader", &[compiler])),
        // wgpu does not hear of memory that ran out there; a test that can assert nothing must not count as passed.
        gl(tests("tests, OpenGL", &["memory_that_runs_out"])),
        // The longest of them first, so that no core is without work at the end.
        gl(verify("verify, OpenGL", "all")),
        silent(verify("verify, SwiftShader", "SwiftShader")),
        native(verify("verify", "all")),
        silent(own_class("tests, own class, SwiftShader")),
        gl(own_class("tests, own class, OpenGL")),
        swiftshader(verify("verify, advice, SwiftShader", one_case))
            .needs(&drivers.layers)
            .under_layers(drivers, layers::Expected::Advice),
    ];
    steps.iter_mut().for_each(|step| step.unfiltered = harness.is_empty());
    steps
}

/// Runs everything and reports. The last line of the output is the sum of the test results.
pub fn run(options: &Options) -> ExitCode {
    let mut rows = Vec::new();
    let mut failures = run_steps(options, &mut rows);
    if failures.is_empty() && summary::sum(&rows).ran() == 0 {
        failures.push("no test ran, which does not count as passed".into());
    }

    println!("\n{}", summary::table(&rows));
    if skip_gpu() {
        println!("{SKIP_GPU}=1: nothing was tested on a device");
    }
    for message in &failures {
        eprintln!("xtask: {message}");
    }
    println!("{}", summary::sum(&rows));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds a row for each step that was begun, and gives a message for the user for each that failed.
fn run_steps(options: &Options, rows: &mut Vec<Row>) -> Vec<String> {
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
        if let Err(message) = result {
            return vec![message];
        }
    }
    // Without device tests, nothing is downloaded for them.
    let drivers = drivers::prepare(!options.no_setup && !skip_gpu());
    let missing = drivers.missing();
    if options.every_driver && !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        return vec![format!("--every-driver, but not all are there\n{}", missing.join("\n"))];
    }
    if let (false, Err(reason)) = (skip_gpu(), &drivers.layers) {
        let mut row = Row::new("validation layer", Format::None);
        row.outcome = Outcome::NotRun(reason.clone());
        rows.push(row);
    }
    let steps = steps(facts(&root), &drivers, &options.harness);
    let mut failures = Vec::new();
    for group in steps.chunk_by(|one, next| one.group.is_some() && one.group == next.group) {
        for (row, result) in run_group(group, &drivers, &root) {
            rows.push(row);
            failures.extend(result.err());
        }
        if options.fail_fast && !failures.is_empty() {
            break;
        }
    }
    failures
}

/// Runs steps side by side, as many at once as there are cores, and gives their outcomes in their own order.
fn run_group(group: &[Step], drivers: &Drivers, root: &Path) -> Vec<(Row, Result<(), String>)> {
    let next = AtomicUsize::new(0);
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let work = || {
            let mut outcomes = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(step) = group.get(index) else { return outcomes };
                outcomes.push((index, run_step(step, drivers, root)));
            }
        };
        let workers: Vec<_> = (0..cores().min(group.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker panicked")).collect()
    });
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn run_step(step: &Step, drivers: &Drivers, root: &Path) -> (Row, Result<(), String>) {
    let mut row = Row::new(step.name, step.format);
    if let Some(reason) = &step.skip {
        println!("==> {}: skipped, {reason}", step.name);
        row.outcome = Outcome::Skipped(reason.clone());
        return (row, Ok(()));
    }
    if let Some(reason) = &step.missing {
        println!("==> {}: NOT RUN, {reason}", step.name);
        row.outcome = Outcome::NotRun(reason.clone());
        return (row, Ok(()));
    }

    let line = format!("cargo {}", step.arguments.join(" "));
    println!("==> {}: {line}", step.name);
    let start = Instant::now();
    let mut reader = Reader::new(step.format);
    let mut watcher = layers::Watcher::default();
    let ended = stream(step, drivers, root, |line| {
        reader.line(line);
        watcher.line(line);
    });
    row.time = start.elapsed();
    (row.counts, row.ignored) = reader.finish();

    let result = match ended {
        Err(error) => Err(format!("'{line}' could not be run: {error}")),
        Ok(false) => Err(format!("step '{}' failed, its own message is above: {line}", step.name)),
        Ok(true) => judge(step, row.counts),
    };
    let result = result.and_then(|()| {
        // A filter may leave no test of this step, and so no layer.
        let ran = row.counts.is_some_and(|counts| counts.ran() > 0);
        if let Some(expected) = step.layers.filter(|_| ran || step.unfiltered) {
            row.remark = watcher.finish(expected).map_err(|message| format!("step '{}': {message}", step.name))?;
        }
        Ok(())
    });
    if result.is_err() {
        row.outcome = Outcome::Failed;
    }
    let (name, time) = (if step.group.is_some() { format!("{}: ", step.name) } else { String::new() }, row.time);
    println!("    {name}{} in {:.1} s", if result.is_ok() { "ok" } else { "FAILED" }, time.as_secs_f64());
    (row, result)
}

/// What a step that ended well has shown: one that ran nothing must not look like success.
fn judge(step: &Step, counts: Option<Counts>) -> Result<(), String> {
    match (step.format, counts) {
        (Format::None, _) => Ok(()),
        (_, Some(counts)) if counts.failed > 0 => Err(format!("step '{}': {counts}", step.name)),
        (_, Some(counts)) if counts.ran() > 0 => Ok(()),
        (Format::Libtest, _) if !step.unfiltered => Ok(()),
        (Format::Libtest, _) => Err(format!("step '{}' ended well, but reports no test that ran", step.name)),
        (Format::Cases, _) => Err(format!("step '{}' ended well, but reports no case that ran", step.name)),
    }
}

/// Runs a step, passes its standard output on line by line, and tells whether it ended well.
fn stream(step: &Step, drivers: &Drivers, root: &Path, read: impl FnMut(&str)) -> io::Result<bool> {
    let mut command = Command::new(cargo());
    command.args(&step.arguments).current_dir(root).stdout(Stdio::piped());
    command.envs(step.environment.iter().map(|(name, value)| (name, value)));
    if let (Some(expected), Ok(manifests)) = (step.layers, &drivers.layers) {
        // A folder for each step, since others read theirs meanwhile.
        let scratch = drivers::folder().join("validation").join(step.name);
        command.envs(layers::environment(manifests, &scratch, expected)?);
    }
    if step.strict_docs {
        let mut flags = env::var_os("RUSTDOCFLAGS").unwrap_or_default();
        flags.push(" -D warnings");
        command.env("RUSTDOCFLAGS", flags);
    }
    let prefix = if step.group.is_some() { format!("[{}] ", step.name) } else { String::new() };
    let mut child = command.spawn()?;
    let copied = match child.stdout.take() {
        Some(output) => copy_lines(BufReader::new(output), io::stdout(), &prefix, read),
        None => Ok(()),
    };
    // Reaps the child even if its output could not be passed on.
    let status = child.wait()?;
    copied?;
    Ok(status.success())
}

/// Lines are passed on as bytes, since a test may print what is not UTF-8, and each in one piece, since others may print
/// at the same time.
fn copy_lines(
    mut output: impl BufRead,
    mut terminal: impl Write,
    prefix: &str,
    mut read: impl FnMut(&str),
) -> io::Result<()> {
    let mut line = prefix.as_bytes().to_vec();
    while output.read_until(b'\n', &mut line)? > 0 {
        terminal.write_all(&line)?;
        terminal.flush()?;
        read(&String::from_utf8_lossy(&line[prefix.len()..]));
        line.truncate(prefix.len());
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
        backends_chosen: env::var_os("WGPU_BACKEND").is_some(),
        gpu: env::consts::OS != "linux" || setup::has_gpu(),
        threads: env::var_os(TEST_THREADS).is_none().then(|| 2 * cores()),
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
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

    const ALL: Facts = Facts {
        rustfmt: true,
        clippy: true,
        bench: true,
        verify: true,
        skip_gpu: false,
        backends_chosen: false,
        gpu: false,
        threads: Some(4),
    };

    fn everything() -> Drivers {
        Drivers {
            swiftshader: Ok("icd.json".into()),
            gl: Ok(()),
            layers: Ok("layers".into()),
            spirv_val: Ok("spirv-val".into()),
            tint: Ok("webgpu".into()),
            mpi: Ok(()),
            hosts: Ok(()),
        }
    }

    fn nothing() -> Drivers {
        let missing = || Err(String::from("missing"));
        let nothing = || Err(String::from("missing"));
        Drivers {
            swiftshader: missing(),
            gl: nothing(),
            layers: missing(),
            spirv_val: missing(),
            tint: missing(),
            mpi: nothing(),
            hosts: nothing(),
        }
    }

    fn named(facts: Facts, drivers: &Drivers, wanted: impl Fn(&Step) -> bool) -> Vec<&'static str> {
        steps(facts, drivers, &[]).iter().filter(|step| wanted(step)).map(|step| step.name).collect()
    }

    fn skipped(facts: Facts) -> Vec<&'static str> {
        named(facts, &everything(), |step| step.skip.is_some())
    }

    #[test]
    fn everything_runs_where_everything_is_there() {
        assert!(skipped(ALL).is_empty());
        assert!(named(ALL, &everything(), |step| step.missing.is_some()).is_empty());
        let names = named(ALL, &everything(), |_| true);
        assert_eq!(
            names,
            [
                "fmt",
                "clippy",
                "doc",
                "package",
                "tests",
                "MPI",
                "MPI, alone",
                "doctests",
                "tracing",
                "spirv-val",
                "Tint",
                "bench",
                "drivers together",
                "MPI, hosts",
                "MPI, drivers together",
                "tests, SwiftShader",
                "tests, OpenGL",
                "verify, OpenGL",
                "verify, SwiftShader",
                "verify",
                "tests, own class, SwiftShader",
                "tests, own class, OpenGL",
                "verify, advice, SwiftShader"
            ]
        );
    }

    #[test]
    fn what_cannot_run_is_left_out_by_name() {
        assert_eq!(skipped(Facts { rustfmt: false, clippy: false, ..ALL }), ["fmt", "clippy"]);
        let of_devices = ["tests, SwiftShader", "tests, OpenGL", "verify, OpenGL", "verify, SwiftShader"];
        let verify = ["bench", "verify, OpenGL", "verify, SwiftShader", "verify", "verify, advice, SwiftShader"];
        assert_eq!(skipped(Facts { bench: false, verify: false, ..ALL }), verify);
        let together = ["drivers together", "MPI, hosts", "MPI, drivers together"];
        let last = ["tests, own class, SwiftShader", "tests, own class, OpenGL", "verify, advice, SwiftShader"];
        let of_gpus = [&["MPI", "bench"][..], &together, &of_devices, &["verify"], &last].concat();
        assert_eq!(skipped(Facts { skip_gpu: true, ..ALL }), of_gpus);
        let missing = named(ALL, &nothing(), |step| step.missing.is_some());
        assert_eq!(missing, [&["MPI", "MPI, alone", "spirv-val", "Tint"][..], &together, &of_devices, &last].concat());
    }

    #[test]
    fn nothing_but_tests_of_devices_is_beside_opengl() {
        let steps = steps(ALL, &everything(), &[]);
        let groups: Vec<_> = steps.chunk_by(|one, next| one.group.is_some() && one.group == next.group).collect();
        let beside = groups.iter().find(|group| group.iter().any(|step| step.name == "tests, OpenGL")).unwrap();
        let devices = |step: &Step| step.name.starts_with("tests, ") || step.name.starts_with("verify");
        assert!(beside.iter().all(devices), "{beside:?}");
        // A group is begun once.
        assert_eq!(groups.iter().filter(|group| group[0].group.is_some()).count(), 3);
    }

    #[test]
    fn each_driver_is_the_only_one_of_its_steps() {
        let variable = |step: &Step, name| {
            let found = step.environment.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.to_string_lossy().into_owned())
        };
        for step in steps(ALL, &everything(), &[]) {
            let expected = match step.name {
                name if name.ends_with("SwiftShader") => (Some("vulkan"), Some("icd.json")),
                name if name.ends_with("OpenGL") => (Some("gl"), None),
                "tests" | "bench" | "verify" | "MPI" | "MPI, hosts" | "MPI, drivers together" => {
                    (Some("vulkan,metal,dx12"), None)
                }
                _ => (None, None),
            };
            let found = (variable(&step, "WGPU_BACKEND"), variable(&step, "VK_DRIVER_FILES"));
            assert_eq!((found.0.as_deref(), found.1.as_deref()), expected, "{}", step.name);
        }
        let chosen = Facts { backends_chosen: true, ..ALL };
        assert_eq!(named(chosen, &everything(), |step| !step.environment.is_empty()).len(), 13);
    }

    #[test]
    fn every_class_of_machine_is_planned_for_somewhere() {
        let plans = |facts: Facts, drivers: &Drivers| {
            let planned = |step: &Step| {
                let found = step.environment.iter().find(|(variable, _)| *variable == PLANS);
                found.map(|(_, value)| value.to_string_lossy().into_owned())
            };
            let run = steps(facts, drivers, &[]).into_iter().filter(|step| step.missing.is_none());
            run.filter(|step| step.name.starts_with("tests")).map(|step| planned(&step)).collect::<Vec<_>>()
        };
        let further = ["discrete", "discrete", "cpu", "cpu"].map(|plans| Some(String::from(plans)));
        assert_eq!(plans(ALL, &everything()), [&[Some("cpu,integrated".into())][..], &further].concat());
        assert_eq!(plans(Facts { gpu: true, ..ALL }, &everything()), [&[None][..], &further].concat());
        assert_eq!(plans(ALL, &nothing()), [None]);
    }

    #[test]
    fn tests_that_wait_for_each_other_are_more_than_cores_unless_the_user_chose() {
        let threads = |facts: Facts| {
            let set = |step: &Step| step.environment.iter().any(|(name, value)| *name == TEST_THREADS && value == "4");
            named(facts, &everything(), set)
        };
        assert_eq!(threads(ALL), ["tests"]);
        assert!(threads(Facts { threads: None, ..ALL }).is_empty());
        assert!(threads(Facts { gpu: true, ..ALL }).is_empty());
    }

    #[test]
    fn a_step_that_ran_nothing_has_shown_nothing() {
        let step = |format, harness: &[String]| {
            let mut steps = steps(ALL, &everything(), harness).into_iter();
            steps.find(|step| step.format == format).unwrap()
        };
        let ran = Some(Counts { passed: 1, failed: 0, skipped: 0 });
        let none = Some(Counts { passed: 0, failed: 0, skipped: 7 });
        let failed = Some(Counts { passed: 1, failed: 1, skipped: 0 });
        let filter = [String::from("fuzz")];
        for format in [Format::Libtest, Format::Cases] {
            assert!(judge(&step(format, &[]), ran).is_ok());
            for counts in [none, failed, None] {
                assert!(judge(&step(format, &[]), counts).is_err(), "{counts:?}");
            }
            assert!(judge(&step(format, &filter), failed).is_err());
        }
        // Not every step has a test of that name.
        assert!(judge(&step(Format::Libtest, &filter), none).is_ok());
    }

    #[test]
    fn the_driver_under_test_must_be_there() {
        for step in steps(ALL, &everything(), &[]) {
            let named = step.environment.iter().any(|(name, value)| *name == ADAPTER && value == "SwiftShader");
            let chosen = step.environment.iter().any(|(name, _)| name.ends_with("DRIVER_FILES"));
            assert_eq!(named, chosen, "{}", step.name);
        }
        let verify = named(ALL, &everything(), |step| step.arguments.ends_with(&["SwiftShader".into()]));
        assert_eq!(verify, ["verify, SwiftShader"]);
    }

    #[test]
    fn the_layer_is_under_all_that_runs_on_swiftshader_and_one_step_shows_that_it_is_heard() {
        let under = |expected| named(ALL, &everything(), |step| step.layers == Some(expected));
        let silent = ["tests, SwiftShader", "verify, SwiftShader", "tests, own class, SwiftShader"];
        assert_eq!(under(layers::Expected::Silence), silent);
        assert_eq!(under(layers::Expected::Advice), ["verify, advice, SwiftShader"]);
        assert!(named(ALL, &nothing(), |step| step.layers.is_some()).is_empty());
    }

    #[test]
    fn the_lock_file_is_never_changed() {
        for step in steps(ALL, &everything(), &[]) {
            let locked = step.arguments.iter().any(|argument| argument == "--locked");
            assert!(locked || step.name == "fmt", "{}", step.name);
        }
    }

    #[test]
    fn harness_arguments_reach_the_tests_alone() {
        for step in steps(ALL, &everything(), &["--nocapture".into()]) {
            let given = step.arguments.last().is_some_and(|argument| argument == "--nocapture");
            assert_eq!(given, step.format == Format::Libtest, "{}", step.name);
        }
    }

    #[test]
    fn lines_that_are_not_utf_8_are_copied() {
        let mut reader = Reader::new(Format::Cases);
        let output: &[u8] = b"\xff\xfe\n2 passed, 0 failed, 1 skipped";
        let mut terminal = Vec::new();
        assert!(copy_lines(output, &mut terminal, "", |line| reader.line(line)).is_ok());
        assert_eq!(terminal, output);
        let mut prefixed = Vec::new();
        assert!(copy_lines(&b"a\nb"[..], &mut prefixed, "[x] ", |line| assert!(line.len() < 3)).is_ok());
        assert_eq!(prefixed, b"[x] a\n[x] b");
        assert_eq!(reader.finish().0, Some(Counts { passed: 2, failed: 0, skipped: 1 }));
    }
}
