//! Trains on handwritten digits with one batch over several processes, and compares with one process that has it whole.
//!
//! `mpirun -n 4 target/release/examples/train_digits_mpi`, after `cargo build --release --features mpi --example train_digits_mpi`
//!
//! Every rank has a device of its own and a share of every batch. Statistics of the batch norms and their gradient sums go through
//! an exchange, gradients of parameters are summed by MPI, so that all ranks take the same step. Rank 0 then trains the same
//! network alone, by the ordinary operations, and says how far the losses are apart.
//!
//! Ctrl-C, or a signal to terminate, ends the run behind a step that all ranks agree on: whoever was asked says so in the sum of that
//! step's gradients. Rank 0 keeps the losses so far.
//!
//! `--fault` makes one rank fail, for tests: every rank must end with an error, in time, and with the running statistics of the step
//! before.

mod kernels;
#[path = "../network/mod.rs"]
mod network;
mod plot;
mod rank;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use wgpu_batch_norm::exchange::{Collective, ExchangeError, MpiCollective};
use wgpu_batch_norm::mpi::traits::Communicator as _;
use wgpu_batch_norm::{Convention, mpi};

use network::context::Context;
use network::digits::{CLASSES, Digits, PIXELS, Split};
use network::progress::Progress;
use network::support;
use rank::{Failing, Network, Settings};

const BATCH: usize = 60;
/// What the losses may differ by, relative to the first loss: rounding (2e-7 was seen over 300 steps).
const ALLOWED_DIFFERENCE: f64 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Fault {
    /// The rank kills itself.
    Die,
    /// The rank tells the others that it cannot go on.
    GiveUp,
    /// The rank leaves out an exchange.
    Skip,
    /// The rank has another channel count.
    Channels,
    /// The rank has another convention.
    Convention,
    /// The rank merges in other groups.
    Groups,
}

/// Trains on handwritten digits over the ranks of an MPI job.
#[derive(Debug, Parser)]
struct Arguments {
    /// Training steps.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Seed of the initial weights and of the order of the batches.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Unequal shares, the last rank's empty.
    #[arg(long)]
    uneven: bool,
    /// Merge statistics in groups of so many ranks first; 1 for none.
    #[arg(long)]
    groups: Option<usize>,
    /// Seconds that a rank waits for the others.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Use the adapter whose name, backend or driver contains this (any case).
    #[arg(long)]
    adapter: Option<String>,
    /// Makes a rank fail.
    #[arg(long)]
    fault: Option<Fault>,
    /// Which rank fails.
    #[arg(long, default_value_t = 1)]
    fault_rank: usize,
    /// At which step it dies, gives up or leaves out an exchange.
    #[arg(long, default_value_t = 3)]
    fault_step: usize,
    /// At which exchange of the step: three of forward, three of backward, and the sum of gradients, at which a rank can only die.
    #[arg(long, default_value_t = 0)]
    fault_exchange: usize,
    /// Where to write the plot.
    #[arg(long, default_value = "target/train_digits_mpi.svg")]
    out: PathBuf,
}

/// Where each rank's rows begin, and where the last ones end.
fn bounds(ranks: usize, uneven: bool) -> Vec<usize> {
    let sharing = if uneven && ranks > 1 { ranks - 1 } else { ranks };
    let weight = |rank: usize| if uneven { rank * (rank + 1) / 2 } else { rank };
    (0..=ranks).map(|rank| BATCH * weight(rank.min(sharing)) / weight(sharing)).collect()
}

/// Every batch of a run, the same on every rank: a new random order each epoch.
fn batches(samples: usize, steps: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut batches = Vec::with_capacity(steps);
    while batches.len() < steps {
        let mut order: Vec<u32> = (0..samples as u32).collect();
        order.shuffle(&mut random);
        batches.extend(order.chunks_exact(BATCH).map(<[u32]>::to_vec));
    }
    batches.truncate(steps);
    batches
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(universe) = mpi::initialize() else {
        eprintln!("MPI could not be initialised");
        return ExitCode::FAILURE;
    };
    let (world, timeout) = (universe.world(), Duration::from_secs(arguments.timeout));
    let other_groups =
        arguments.fault == Some(Fault::Groups) && usize::try_from(world.rank()) == Ok(arguments.fault_rank);
    let ranks = match arguments.groups {
        None => MpiCollective::new(&world, timeout),
        Some(size) => MpiCollective::with_groups(&world, timeout, if other_groups { 2 * size } else { size }),
    };
    let ranks = match ranks {
        Ok(ranks) => ranks,
        Err(error) => stop(world.rank(), &error, 2),
    };
    let rank = ranks.rank();
    // The ranks of one machine take its adapters in turn.
    let on_this_machine = world.split_shared(world.rank()).rank();
    let turn = usize::try_from(on_this_machine).unwrap_or_default();
    let Some(gpu) = support::open_in_turn(arguments.adapter.as_deref(), turn) else {
        eprintln!("rank {rank}: {}", support::missing(arguments.adapter.as_deref()));
        // Without the other ranks' leave: they must not wait for this one.
        std::process::exit(2);
    };
    match run(&arguments, &Context::new(gpu), ranks) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => stop(rank, &*error, 3),
    }
}

/// Says what went wrong and ends the process.
fn stop(rank: impl std::fmt::Display, error: &dyn std::error::Error, status: i32) -> ! {
    // In one piece: other ranks write at the same time.
    let line = format!("rank {rank}: error: {error}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    // MPI's own end would wait for ranks that may be gone.
    std::process::exit(status)
}

fn run(arguments: &Arguments, context: &Context, ranks: MpiCollective) -> Result<bool, Box<dyn std::error::Error>> {
    let (rank, count) = (ranks.rank(), ranks.ranks());
    let fails = |fault| arguments.fault == Some(fault) && arguments.fault_rank == rank;
    let mut widths = [PIXELS, 100, 100, 100, CLASSES];
    if fails(Fault::Channels) {
        widths[1] = 96;
    }
    let convention = if fails(Fault::Convention) { Convention::keras() } else { Convention::pytorch() };
    let settings = Settings { widths: &widths, convention, batch: BATCH, seed: arguments.seed };
    let digits = Digits::load().training;
    let batches = batches(digits.len(), arguments.steps, arguments.seed);
    let bounds = bounds(count, arguments.uneven);
    let own = bounds[rank]..bounds[rank + 1];
    let host = mpi::environment::processor_name()?;
    // Before the line that tells a person whom to ask.
    let progress = if rank == 0 { Progress::new(arguments.steps as u64)? } else { Progress::silent()? };
    println!(
        "rank {rank} of {count}: rows {own:?} of {BATCH} on {host}, process {}, {}",
        std::process::id(),
        context.gpu.info.name
    );

    let mut network = Network::new(context, &settings, own.len(), false)?;
    let mut together = Vec::with_capacity(arguments.steps);
    let mut ranks = Some(ranks);
    let mut running = network.running_statistics();
    let (mut start, mut lines) = (Instant::now(), Lines::new(&progress, rank == 0, arguments.steps));
    for (step, batch) in batches.iter().enumerate() {
        if step == arguments.fault_step {
            let faults = [(Fault::Die, Failing::Die), (Fault::GiveUp, Failing::GiveUp), (Fault::Skip, Failing::Skip)];
            let failing = faults.into_iter().find(|&(fault, _)| fails(fault));
            network.failing = failing.map(|(_, failing)| (arguments.fault_exchange, failing));
        }
        if step == 1 {
            // The first step compiles and agrees.
            (network.fetching, network.exchanging, start) = (Duration::ZERO, Duration::ZERO, Instant::now());
        }
        let Split { images, labels } = digits.gather(&batch[own.clone()]);
        let trained = match network.train(&images, &labels, BATCH, &mut ranks, progress.stopped()) {
            Ok(trained) => trained,
            Err(error) => return Err(failed(&network, &running, step, &error)),
        };
        together.push(trained.loss);
        lines.step(&together);
        if trained.is_last {
            break;
        }
        if arguments.fault.is_some() {
            running = network.running_statistics();
        }
    }
    let elapsed = start.elapsed();
    let steps = together.len().saturating_sub(1).max(1) as f64;
    let each = |time: Duration| 1e3 * time.as_secs_f64() / steps;
    println!(
        "rank {rank}: {:.2} ms a step, of which {:.2} ms wait for records and {:.2} ms exchange them",
        each(elapsed),
        each(network.fetching),
        each(network.exchanging)
    );
    drop(network);
    let stopped = together.len() < arguments.steps;
    if stopped {
        println!("rank {rank}: stopped behind step {} of {}", together.len(), arguments.steps);
    }
    if rank != 0 {
        return Ok(true);
    }
    if stopped {
        // Whoever asked may end the process soon, so nothing that takes long.
        progress.finish();
        plot::write(&arguments.out, count, &together, &[])?;
        println!(
            "stopped as asked: the loss of {} steps is kept, not compared with one process; plot: {}, values: {}",
            together.len(),
            arguments.out.display(),
            arguments.out.with_extension("csv").display()
        );
        return Ok(true);
    }
    compare(arguments, context, &settings, (&digits, &batches), &together, count, &progress)
}

/// How far a run is, in a line every few seconds where there is no terminal for a bar, as under `mpirun`.
struct Lines<'p> {
    progress: &'p Progress,
    speaks: bool,
    steps: usize,
    said: Option<Instant>,
}

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(2);

impl<'p> Lines<'p> {
    fn new(progress: &'p Progress, speaks: bool, steps: usize) -> Self {
        Self { progress, speaks, steps, said: None }
    }

    /// A step has ended; `losses` are of all so far.
    fn step(&mut self, losses: &[f64]) {
        self.progress.add(1);
        let is_due = self.said.is_none_or(|said| said.elapsed() >= PAUSE);
        if self.speaks && is_due && !self.progress.is_visible() {
            let loss = losses.last().copied().unwrap_or_default();
            println!("step {} of {}: loss {loss:.4}", losses.len(), self.steps);
            self.said = Some(Instant::now());
        }
    }
}

/// What is reported of a step that failed.
fn failed(network: &Network<'_>, before: &[f32], step: usize, error: &ExchangeError) -> Box<dyn std::error::Error> {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let kept = bits(&network.running_statistics()) == bits(before);
    let verdict =
        if kept { "running statistics are those of the step before" } else { "RUNNING STATISTICS HAVE CHANGED" };
    format!("step {step}: {error}; {verdict}").into()
}

/// The same by one process with the whole batch; asked to stop, over the steps so far.
fn compare(
    arguments: &Arguments,
    context: &Context,
    settings: &Settings<'_>,
    (digits, batches): (&Split, &[Vec<u32>]),
    together: &[f64],
    ranks: usize,
    progress: &Progress,
) -> Result<bool, Box<dyn std::error::Error>> {
    progress.say("one process");
    let mut network = Network::new(context, settings, BATCH, true)?;
    let mut alone = Vec::with_capacity(together.len());
    for batch in batches {
        let Split { images, labels } = digits.gather(batch);
        let trained = network.train(&images, &labels, BATCH, &mut None, progress.stopped())?;
        alone.push(trained.loss);
        if trained.is_last {
            break;
        }
    }
    progress.finish();
    if alone.len() < together.len() {
        println!("stopped as asked: one process has trained {} of {} steps", alone.len(), together.len());
    }
    let largest = together
        .iter()
        .zip(&alone)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |a, b| if b >= a || b.is_nan() { b } else { a });
    let first = alone.first().copied().unwrap_or(1.0);
    // NaN fails.
    let agree = largest <= ALLOWED_DIFFERENCE * first;
    println!(
        "{ranks} ranks against one process: {}; loss {first:.4} at first, {:.4} in the end; they differ by at most {largest:.1e} \
         ({:.1e} allowed)",
        if agree { "ok" } else { "FAILED" },
        alone.last().copied().unwrap_or(first),
        ALLOWED_DIFFERENCE * first
    );
    plot::write(&arguments.out, ranks, together, &alone)?;
    println!("plot: {}", arguments.out.display());
    Ok(agree)
}
