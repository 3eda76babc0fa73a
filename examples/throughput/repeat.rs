//! Runs one operation, or a yardstick, so many times and nothing else: for counters of instructions, which cannot tell what they
//! counted. The difference between two numbers of times is what one run of it costs.

use clap::ValueEnum;
use wgpu_batch_norm::Layout;

use crate::buffers::Buffers;
use crate::measure::Bench;
use crate::shapes::Dims;
use crate::timer::Record;

/// What `--repeat` runs in place of an operation.
#[derive(Clone, Copy, ValueEnum)]
pub enum YardstickArgument {
    Copy,
    Sum,
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
    let record: Record<'_> = match yardstick {
        Some(which) => {
            let kernel = match which {
                YardstickArgument::Copy => &bench.copies[0],
                YardstickArgument::Sum => &bench.sums[0],
            };
            let bound = kernel.bind(bench.gpu, &set.input, &set.output, plan.tensor_size());
            Box::new(move |_, pass| bound.record(pass))
        }
        None => {
            let [operation] = bench.operations[..] else { return Err("`--repeat` runs one `--op`".into()) };
            let bound = operation.bind(&bn, &plan, &set).map_err(|error| error.to_string())?;
            println!("{}: {} dispatches", operation.name(), bound.dispatch_count());
            Box::new(move |_, pass| bound.record(pass))
        }
    };
    bench.timer.pass(times, &record);
    Ok(())
}
