//! Measures every strategy on the machine at hand, and says which it would take and how far the planner's choice is from it.
//!
//! ```text
//! cargo run --release --example tune -- [--adapter SUBSTRING] [--shape N,C,H,W] [--layout first|last] [--op OP] [--quick]
//!     [--element f32|f16|bf16] [--activation ACTIVATION] [--residual] [--source recompute|output|mask]
//! ```
//!
//! A strategy that wins by more than the spread of the measurement can be pinned with `BatchNorm::plan_with`. Exit code:
//! 0 if all was measured, 1 if a result was wrong, 2 if there was nothing to run on.

#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/buffers.rs"]
mod buffers;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/check.rs"]
mod check;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/configuration.rs"]
mod configuration;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/element.rs"]
mod element;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/floor.rs"]
mod floor;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/measure.rs"]
mod measure;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/operations.rs"]
mod operations;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/peers.rs"]
mod peers;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/shapes.rs"]
mod shapes;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/table.rs"]
mod table;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/timer.rs"]
mod timer;
#[allow(dead_code, reason = "shared with `throughput`, which uses all of it")]
#[path = "../throughput/yardstick.rs"]
mod yardstick;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use wgpu_batch_norm::{Kernels, Layout};

use crate::configuration::Configuration;
use crate::measure::Bench;
use crate::operations::Operation;
use crate::shapes::Dims;
use crate::table::{Figures, Row, Status};
use crate::timer::Timer;

/// Measure every strategy on the machine at hand and say which is the fastest
#[derive(Parser)]
struct Arguments {
    /// The adapter whose name, backend or driver contains this [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Only this operation; may be repeated
    #[arg(long, value_name = "OP", value_enum)]
    op: Vec<Operation>,
    /// Only this shape; may be repeated [default: ten typical ones]
    #[arg(long, value_name = "N,C,H,W", value_parser = shapes::parse)]
    shape: Vec<Dims>,
    /// Only this layout
    #[arg(long, value_enum)]
    layout: Option<LayoutArgument>,
    #[command(flatten)]
    configuration: Configuration,
    /// Three rounds of shorter passes in place of nine
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutArgument {
    /// (N,C,H,W)
    First,
    /// (N,H,W,C)
    Last,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(gpu) = support::open_best(arguments.adapter.as_deref()) else {
        eprintln!("{}", support::missing(arguments.adapter.as_deref()));
        return ExitCode::from(2);
    };
    let kernels = Kernels::new(&gpu.device);
    let timer = Timer::new(&gpu, false);
    let [copies, sums] = yardstick::fastest(&gpu, &timer, kernels.profile().class, false);
    let (rounds, target) = if arguments.quick { (3, 0.003) } else { (9, 0.01) };
    let asked_for = |operation: &Operation| arguments.op.is_empty() || arguments.op.contains(operation);
    let operations = Operation::ALL.into_iter().filter(asked_for).collect();
    let configuration = arguments.configuration;
    let (every_strategy, floors) = (true, false);
    let bench = Bench {
        gpu: &gpu,
        timer,
        copies,
        sums,
        kernels,
        operations,
        configuration,
        rounds,
        target,
        every_strategy,
        floors,
        peers: Vec::new(),
    };
    println!("{gpu}, planned as {:?}, {configuration}\n", bench.kernels.profile().class);
    println!(
        "{:19} {:5} {:15} {:21} {:>9}  {:21} {:>9} {:>7}",
        "shape (N,C,H,W)", "lay.", "op", "planned", "ms", "fastest", "ms", "gain"
    );
    let shapes = if arguments.shape.is_empty() { shapes::REPRESENTATIVE.to_vec() } else { arguments.shape.clone() };
    let mut verdicts = Vec::new();
    let mut right = true;
    for dims in shapes {
        for (layout, name) in
            [(Layout::ChannelsFirst, LayoutArgument::First), (Layout::ChannelsLast, LayoutArgument::Last)]
        {
            if arguments.layout.is_some_and(|only| only != name) {
                continue;
            }
            let rows = bench.measure(dims, layout);
            right &= !rows.iter().any(|row| matches!(row.status, Status::Wrong(_)));
            verdicts.extend(bench.operations.iter().filter_map(|operation| judge(&rows, operation.name())));
        }
    }
    print_summary(&verdicts);
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How much longer the planner's choice takes than the fastest strategy, if by more than the figures spread.
struct Verdict {
    loss: f64,
    certain: bool,
}

/// Compares the strategies of one operation on one shape and prints a line. The planner's choice is the first of the rows.
fn judge(rows: &[Row], op: &str) -> Option<Verdict> {
    let of = |row: &Row| match &row.status {
        Status::Measured(figures) => Some(figures.clone()),
        Status::Refused(message) | Status::Wrong(message) => {
            println!("{:?} {} {op}: {message}", row.shape, row.layout);
            None
        }
    };
    let figures: Vec<Figures> = rows.iter().filter(|row| row.op == op).filter_map(of).collect();
    let row = rows.iter().find(|row| row.op == op)?;
    let planned = figures.first()?;
    let fastest = figures.iter().min_by(|a, b| a.ms.total_cmp(&b.ms))?;
    let loss = planned.ms / fastest.ms - 1.0;
    let certain = loss > planned.spread.max(fastest.spread).max(0.02);
    let [n, c, h, w] = row.shape;
    println!(
        "{:19} {:5} {op:15} {:21} {:>9.4}  {:21} {:>9.4} {:>6.0}%{}",
        format!("({n},{c},{h},{w})"),
        row.layout,
        planned.strategy,
        planned.ms,
        fastest.strategy,
        fastest.ms,
        100.0 * loss,
        if loss > 0.0 && !certain { " (within the spread)" } else { "" }
    );
    Some(Verdict { loss, certain })
}

fn print_summary(verdicts: &[Verdict]) {
    let missed: Vec<f64> = verdicts.iter().filter(|verdict| verdict.certain).map(|verdict| verdict.loss).collect();
    let worst = missed.iter().fold(0.0_f64, |worst, loss| worst.max(*loss));
    println!(
        "\nThe planner's choice is the fastest, as far as the figures can tell, in {} of {} cases; the worst of the others \
         loses {:.0} %.",
        verdicts.len() - missed.len(),
        verdicts.len(),
        100.0 * worst
    );
}
