//! Runs one operation, or a yardstick, so many times and nothing else: for counters of instructions, which cannot tell what they
//! counted. The difference between two numbers of times is what one run of it costs.

use clap::ValueEnum;
use wgpu_batch_norm::Layout;

use crate::buffers::Buffers;
use crate::floor::{Floor, Which};
use crate::measure::Bench;
use crate::shapes::Dims;
use crate::timer::Record;

/// What `--repeat` runs in place of an operation.
#[derive(Clone, Copy, ValueEnum)]
pub enum YardstickArgument {
    Copy,
    Sum,
    /// The floor of one `--op` by whole units, without waiting
    Floor,
    /// The same with barriers in its loops
    FloorWaiting,
    /// The same with several lanes an invocation
    FloorSpans,
    /// The floor over rows that share units, by elements
    FloorByElement,
    /// The same without masks where units lie within a row
    FloorMiddlesApart,
}

/// Without a check of results: `throughput` without `--repeat` does that.
pub fn run(
    bench: &Bench<'_>,
    yardstick: Option<YardstickArgument>,
    dims: Dims,
    layout: Layout,
    times: usize,
) -> Result<(), String> {
    let (bn, plan) = bench.plan(dims, layout).map_err(|error| error.to_string())?;
    let set = Buffers::new(bench.gpu, &plan, plan.workspace_size(), bench.configuration, 0)?;
    let operation = || match bench.operations[..] {
        [operation] => Ok(operation),
        _ => Err("`--repeat` runs one `--op`".to_string()),
    };
    let kernel = match yardstick {
        Some(YardstickArgument::Copy) => Some(&bench.copies[0]),
        Some(YardstickArgument::Sum) => Some(&bench.sums[0]),
        _ => None,
    };
    let which = match yardstick {
        Some(YardstickArgument::Floor) => Some(Which::Plain),
        Some(YardstickArgument::FloorWaiting) => Some(Which::Waiting),
        Some(YardstickArgument::FloorSpans) => Some(Which::Spans),
        Some(YardstickArgument::FloorByElement) => Some(Which::ByElement),
        Some(YardstickArgument::FloorMiddlesApart) => Some(Which::MiddlesApart),
        _ => None,
    };
    let floor = match which {
        Some(which) => {
            let floor = Floor::of(bench.gpu, operation()?, dims, layout, which);
            Some(floor.ok_or("the shape has no floor of this kind")?)
        }
        None => None,
    };
    let record: Record<'_> = match (kernel, &floor) {
        (Some(kernel), _) => {
            let bound = kernel.bind(bench.gpu, &set.input, &set.output, plan.tensor_size());
            Box::new(move |_, pass| bound.record(pass))
        }
        (None, Some(floor)) => {
            println!("{}", floor.name());
            let bound = floor.bind(bench.gpu, &set);
            Box::new(move |_, pass| bound.record(pass))
        }
        (None, None) => {
            let operation = operation()?;
            let bound = operation.bind(&bn, &plan, &set).map_err(|error| error.to_string())?;
            println!("{}: {} dispatches", operation.name(), bound.dispatch_count());
            Box::new(move |_, pass| bound.record(pass))
        }
    };
    bench.timer.pass(times, &record);
    Ok(())
}
