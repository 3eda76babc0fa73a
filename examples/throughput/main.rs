//! Measures every operation beside a copy and a read-only sum of the same tensor, in one run and in turn.
//!
//! ```text
//! cargo run --release --example throughput -- [--adapter SUBSTRING] [--json FILE] [--plot FILE.svg] [--quick]
//!     [--op OP] [--shape N,C,H,W] [--layout first|last] [--growth [--budget SECONDS]] [--element f32|f16|bf16]
//!     [--activation ACTIVATION] [--residual] [--source recompute|output|mask] [--segments K|each] [--padded]
//!     [--renormalize] [--floor] [--processor-time] [--peer DIR]
//! ```
//!
//! `--help` says what the figures mean. Exit code: 0 if all was measured or refused with a reason, 1 if a result was
//! wrong or a file could not be written, 2 if there was nothing to run on.

mod buffers;
mod check;
mod configuration;
mod element;
mod floor;
mod growth;
mod host;
mod measure;
mod operations;
mod peers;
mod plot;
mod repeat;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod timer;
mod yardstick;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use wgpu_batch_norm::{Kernels, KernelsDescriptor, Layout};

use crate::configuration::Configuration;
use crate::measure::Bench;
use crate::operations::Operation;
use crate::peers::Peer;
use crate::repeat::YardstickArgument;
use crate::shapes::Dims;
use crate::table::Row;
use crate::timer::Timer;
use crate::yardstick::Yardstick;

/// What the figures mean.
const MEANING: &str = "\
Every round times the copy, the sum and each operation once, as a pass that repeats it for 10 ms or more; figures are
medians of nine rounds, ratios to the limit medians of the ratios within a round. A spread (interquartile range over median) above 10 % is marked with `!`. Samples of every result
are compared with the CPU reference first; a wrong result is not timed. The copy and the sum read as many bytes as a
tensor has, whatever its element type, and take as many bytes an invocation as is fastest on the device (tried on 32 MiB),
so that they are limits and no easy marks; of two workgroup sizes, on software drivers, the faster of the shape counts.

With `--source output` or `mask` the backwards are given noise in place of y or the mask: y shares its buffer with dx.

With `--segments` an instance is a channel of a segment. Running statistics take K sub-batches in turn, and the average
of `each` sample. Where K does not divide N there is nothing to measure. With `--padded`, flags that look like noise
leave about three quarters of the positions (elements of one channel); `mark` (`bind_valid`) makes of them a bit an
element, once a batch and not in every layer, and every walk over a tensor reads these. `--renormalize` has limits of 3
and 5; inference and backward_frozen are as without. Training and backward are then always split, by coefficients that a
small dispatch prepares (`prepared`), and so is a padded backward_frozen; strategies of one dispatch are refused.
`--strategies` tells the walks.

Tensors below 64 MiB are taken in turn from two sets of buffers. Two small sets still fit large caches, but those of the
copy and the sum fit as well.

  ideal   GB/s (10^9 bytes) if each input were read once and each output written once
  moved   GB/s on the bytes that the chosen strategy reads and writes; neither counts the workspace
  /copy   moved over the copy's GB/s: 1 is as fast as a copy; `copy_ratio` in JSON
  /limit  time over the time of the sums and copies that read and write the same bytes: 1 is the limit of the strategy;
          `limit_ratio` in JSON
            training         sum + copy      reads x; reads x again, writes y
            inference        copy            reads x, writes y
            backward         3 sums + copy   reads x, dy; reads x and dy again, writes dx
            backward_frozen  2 sums + copy   reads x, dy; reads dy again, writes dx (all three gradients)
          A tensor more that is written is a copy more, a tensor more that is read a sum more, or less where it goes into
          that copy; a mask is its part of a tensor. The residual z is read by forward's map, the derivative's source (x
          and z, y, or the mask) by both walks of a backward, and dz is written. So with ReLU, recomputed, and a residual:
            training         2 sums + copy      reads x; reads x, z, writes y
            inference        sum + copy         reads x, z, writes y
            backward         4 sums + 2 copies  reads x, dy, z; reads x, dy, z again, writes dx, dz
            backward_frozen  4 sums + 2 copies  the same: t needs x
          What is valid is a bit an element more in every walk: elements/8 bytes, 1/32 of an f32 tensor.
            mark             reads positions * 4 bytes of flags, writes a bit an element and a bit a position: a copy of
                             the bits + a sum of what is read beyond; where less is read than written, a copy of half
                             of both together
With `--floor`, each operation has the row of its floor: the fastest of the least kernels that read and write what it does in
the order that the layout forces, without statistics (up to sixteen for each walk, of one dispatch or two). An invocation keeps
to its channels, since it is their statistics that it would hold; rows that share units are stored by elements, or four
channels at once. What a floor is above the limit is the layout's; what the operation is above its floor is the kernel's.
`16x64w / 64x4`: workgroups of 16 that take 64 trips an invocation and wait for each other, then workgroups of 64 that take 4.

With `--peer DIR`, every operation has a row beside it for each manifest in DIR (files that end in .json) of the shape: a batch
norm of somebody else's, checked against the reference like ours, and timed in the same rounds, on the same tensors, in f32 and
channels first. A manifest names WGSL files, entry points, workgroups and the buffers they are bound to; its scratch and
uniforms are its own. `benches/peers/README.md` says how to write one, `benches/peers/obvious.py` and `borch.mjs` do. Peers are
compiled without wgpu's checks of loops and divisions, as ours are. GB/s are on the bytes that ours would move in
as many dispatches.
`peer_training` and so on are their names in JSON, `peer` says whose it is, `peer_ratio` is its time over ours. At the end
stands each of them beside ours, with forward and backward together.

  workspace  bytes of the plan's scratch, which serves every operation; marked where it is more than the larger of 1 %
          of the tensor and 64 bytes a channel plus 64 KiB; with segments 72 bytes an instance, as they share gamma";

/// Measure every operation beside a copy and a read-only sum of the same tensor, in one run and in turn.
#[derive(Parser)]
#[command(name = "throughput", after_long_help = MEANING)]
struct Arguments {
    /// The adapter whose name, backend or driver contains this [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Only this operation; may be repeated
    #[arg(long, value_name = "OP", value_enum)]
    op: Vec<Operation>,
    /// Only this shape, whatever the layout; may be repeated [default: ten typical ones and ResNet-50's]
    #[arg(long, value_name = "N,C,H,W", value_parser = shapes::parse, conflicts_with = "growth")]
    shape: Vec<Dims>,
    /// Only this layout
    #[arg(long, value_enum)]
    layout: Option<LayoutArgument>,
    #[command(flatten)]
    configuration: Configuration,
    /// Every strategy that serves a shape, the planner's choice first, in place of that choice alone
    #[arg(long, conflicts_with = "growth")]
    strategies: bool,
    /// Work on tensors in windows of at most this many bytes [default: what the library does, 1 GiB or what fits a binding]
    #[arg(long, value_name = "BYTES")]
    window: Option<u64>,
    /// Load tensors by 64-bit integers, or not [default: what the library does, which is to do so on llvmpipe where it can]
    #[arg(long, value_name = "true|false")]
    double_words: Option<bool>,
    /// Let the copy and the sum take 64-bit integers as well, and count the fastest [devices that have them]
    #[arg(long, conflicts_with = "repeat")]
    double_word_yardsticks: bool,
    /// Beside every operation its floor: the least kernels that read and write the same in the order that the layout forces
    #[arg(long, conflicts_with_all = ["growth", "strategies", "activation", "residual", "segments", "padded", "renormalized", "element"])]
    floor: bool,
    /// Beside every operation those of the peers that manifests in this folder describe; may be repeated
    #[arg(long, value_name = "DIR", conflicts_with_all = ["growth", "strategies", "repeat", "activation", "residual", "segments", "padded", "renormalized", "element"])]
    peer: Vec<PathBuf>,
    /// Three rounds of shorter passes
    #[arg(long)]
    quick: bool,
    /// Rounds in place of nine, for a machine whose speed changes
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["quick", "processor_time"], value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// The processor time of the process, the least of twenty rounds of short passes: for software drivers, on a machine that does
    /// other work [Linux only]
    #[arg(long, conflicts_with = "quick")]
    processor_time: bool,
    /// Nanoseconds per element over 2^10 to 2^26 elements instead
    #[arg(long)]
    growth: bool,
    /// Seconds after which `--growth` starts no further size
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    budget: u64,
    /// Run one operation on one shape this many times and nothing else, for a counter of instructions (`benches/instructions.py`)
    #[arg(long, value_name = "TIMES", requires_all = ["shape", "layout"], conflicts_with_all = ["growth", "strategies", "json", "plot"])]
    repeat: Option<usize>,
    /// With `--repeat`, run a yardstick
    #[arg(long, value_enum, requires = "repeat")]
    yardstick: Option<YardstickArgument>,
    /// Write the rows as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw bandwidth over size, with the copy as the roof
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutArgument {
    /// (N,C,H,W)
    First,
    /// (N,H,W,C)
    Last,
}

impl From<LayoutArgument> for Layout {
    fn from(argument: LayoutArgument) -> Self {
        match argument {
            LayoutArgument::First => Self::ChannelsFirst,
            LayoutArgument::Last => Self::ChannelsLast,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.op.contains(&Operation::Mark) && !arguments.configuration.padded {
        let message = "`--op mark` needs `--padded`: there is nothing to mark";
        Arguments::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    }
    let Some(gpu) = support::open_best(arguments.adapter.as_deref()) else {
        eprintln!("{}", support::missing(arguments.adapter.as_deref()));
        return ExitCode::from(2);
    };
    let double_words = arguments.double_word_yardsticks || arguments.double_words == Some(true);
    if double_words && !gpu.device.features().contains(wgpu::Features::SHADER_INT64) {
        eprintln!("{gpu} has no 64-bit integers to load by");
        return ExitCode::from(2);
    }
    match run(&arguments, &gpu) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every result was right.
fn run(arguments: &Arguments, gpu: &support::Gpu) -> Result<bool, String> {
    let bench = bench(arguments, gpu, peers::load(&arguments.peer)?);
    println!("{gpu}");
    if let (Some(times), Some(layout), [dims]) = (arguments.repeat, arguments.layout, &arguments.shape[..]) {
        repeat::run(&bench, arguments.yardstick, *dims, layout.into(), times)?;
        return Ok(true);
    }
    println!(
        "{}, {} of {} rounds by {}; see --help for what the figures mean",
        bench.configuration,
        if arguments.processor_time { "the least" } else { "medians" },
        bench.rounds,
        bench.timer.clock()
    );
    for (name, yardsticks) in [("copies", &bench.copies), ("sums", &bench.sums)] {
        let told = |yardstick: &Yardstick| {
            format!("{} blocks in workgroups of {}", yardstick.blocks(), yardstick.workgroup_size())
        };
        let told: Vec<String> = yardsticks.iter().map(told).collect();
        println!("{name}, with blocks of 64 bytes an invocation: {}", told.join(", or "));
    }
    for (set, loaded) in [
        (bench.kernels.double_words(), "tensors are"),
        (arguments.double_word_yardsticks, "copies and sums, where that is faster, are"),
    ] {
        if set {
            println!("{loaded} loaded by 64-bit integers");
        }
    }
    println!();
    let layouts = match arguments.layout {
        Some(layout) => vec![layout.into()],
        None => vec![Layout::ChannelsFirst, Layout::ChannelsLast],
    };
    let rows = if arguments.growth {
        growth::run(&bench, &layouts, Duration::from_secs(arguments.budget))
    } else {
        host::print(&bench);
        println!();
        let shapes = if arguments.shape.is_empty() { shapes::standard() } else { arguments.shape.clone() };
        let rows = measure(&bench, &shapes, &layouts);
        table::print_resnet(&rows);
        table::print_peers(&rows);
        rows
    };
    let right = table::print_verdict(&rows);
    if let Some(path) = &arguments.json {
        let json = table::json(&rows).map_err(|error| error.to_string())?;
        fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &arguments.plot {
        plot::write(path, &gpu.info.name, &rows).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(right)
}

fn bench<'a>(arguments: &Arguments, gpu: &'a support::Gpu, peers: Vec<Peer>) -> Bench<'a> {
    let descriptor = KernelsDescriptor { double_words: arguments.double_words, ..Default::default() };
    let kernels = Kernels::with_descriptor(&gpu.device, &descriptor);
    let kernels = arguments.window.map_or(kernels.clone(), |size| kernels.with_max_window_size(size));
    let class = kernels.profile().class;
    let (rounds, target) = match (arguments.processor_time, arguments.quick) {
        (true, _) => (20, 0.002),
        (false, true) => (3, 0.003),
        (false, false) => (arguments.rounds.map_or(9, usize::from), 0.01),
    };
    let asked_for = |operation: &Operation| arguments.op.is_empty() || arguments.op.contains(operation);
    let timer = Timer::new(gpu, arguments.processor_time);
    let [copies, sums] = match arguments.repeat {
        Some(_) => yardstick::shortest(gpu, class),
        None => yardstick::fastest(gpu, &timer, class, arguments.double_word_yardsticks),
    };
    Bench {
        gpu,
        timer,
        copies,
        sums,
        kernels,
        operations: Operation::of(&arguments.configuration).filter(asked_for).collect(),
        configuration: arguments.configuration,
        rounds,
        target,
        every_strategy: arguments.strategies,
        floors: arguments.floor,
        peers,
    }
}

/// Prints rows as they come, since a run takes minutes.
fn measure(bench: &Bench<'_>, shapes: &[Dims], layouts: &[Layout]) -> Vec<Row> {
    table::print_header();
    let mut rows = Vec::new();
    for dims in shapes {
        for layout in layouts {
            let measured = bench.measure(*dims, *layout);
            table::print_rows(&measured);
            rows.extend(measured);
        }
    }
    rows
}
