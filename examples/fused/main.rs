//! Batch norm fused into a program's own kernels, forward and backward, beside the same by the crate's.
//!
//! `cargo run --release --example fused`
//!
//! Two 1×1 convolutions with batch norm and SiLU between them. In the fused chain no dispatch of batch norm goes over a tensor:
//!
//! ```text
//! convolution, moments of its tiles ─► bind_conclude ─► normalise, SiLU, convolution
//! convolution's gradient, gradient sums of its tiles ─► bind_merge_gradient_sums ─► dx, convolution's gradient
//! ```
//!
//! What the kernels (`kernels.wgsl`) and the crate exchange are records a channel: `ChannelMoments` and `ChannelGradientSums` of
//! every tile, which is a part of the batch, and `ChannelStatistics` back.

mod chain;
#[path = "../network/mod.rs"]
mod network;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use chain::{Chain, Inputs, Outputs};
use network::context::Context;
use network::support;

/// What the chains may differ by, relative to the largest value of a result: rounding.
const ALLOWED_DIFFERENCE: f64 = 2e-5;

/// Fuses batch norm into two convolutions and compares with the crate's own kernels.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pixels of the whole batch.
    #[arg(long, default_value_t = 8 * 28 * 28, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    rows: u32,
    /// Times that each chain is run; medians are printed.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Use the adapter whose name, backend or driver contains this (any case).
    #[arg(long)]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    support::main(arguments.adapter.as_deref(), |gpu| run(&Context::new(gpu), &arguments))
}

fn run(context: &Context, arguments: &Arguments) -> Result<ExitCode, wgpu_batch_norm::Error> {
    let inputs = Inputs::new(arguments.rows as usize);
    let [plain, fused] =
        [Chain::plain(context, &inputs)?, Chain::fused(context, &inputs)?].map(|chain| (chain.run(context), chain));
    let (name, difference) = largest_difference(&plain.0, &fused.0);
    let agree = difference <= ALLOWED_DIFFERENCE;
    println!(
        "fused against the crate's kernels: {}; they differ by at most {difference:.1e} of the largest value, in {name} \
         ({ALLOWED_DIFFERENCE:.0e} allowed)",
        if agree { "ok" } else { "FAILED" }
    );
    let [apart, together] = [plain.1, fused.1].map(|chain| median(context, &chain, arguments.repetitions));
    println!(
        "forward and backward of {} pixels, {} channels: {:.2} ms with batch norm apart, {:.2} ms with it fused",
        arguments.rows,
        chain::WIDTH,
        1e3 * apart.as_secs_f64(),
        1e3 * together.as_secs_f64()
    );
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn median(context: &Context, chain: &Chain, repetitions: u32) -> Duration {
    let mut times: Vec<_> = (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            chain.submit(context);
            context.gpu.wait();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// The result with the largest difference, relative to its largest value. NaN counts as the largest of all.
fn largest_difference(expected: &Outputs, got: &Outputs) -> (&'static str, f64) {
    let of = |&(name, ref values): &(&'static str, Vec<f32>), got: &[f32]| {
        let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(f64::from(value.abs())));
        let differences = values.iter().zip(got).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        let difference =
            differences.fold(0.0, |largest, new| if new >= largest || new.is_nan() { new } else { largest });
        let complete = values.len() == got.len() && largest > 0.0 && !difference.is_nan();
        (name, if complete { difference / largest } else { f64::INFINITY })
    };
    let all = expected.iter().zip(got).map(|(expected, (_, got))| of(expected, got));
    all.fold(("nothing", 0.0), |worst, new| if new.1 >= worst.1 { new } else { worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    mod on_every_adapter {
        use super::*;

        #[test]
        fn batch_norm_fused_into_convolutions_is_the_crates() {
            let all = support::open_all(None);
            assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
            for context in all.into_iter().map(Context::new) {
                // One tile with a single row, tiles that are full, and a last one that is not.
                for rows in [17, 64, 1003] {
                    let inputs = Inputs::new(rows);
                    let [plain, fused] = [Chain::plain(&context, &inputs), Chain::fused(&context, &inputs)]
                        .map(|chain| chain.unwrap().run(&context));
                    assert_eq!(plain.len(), fused.len());
                    let (name, difference) = largest_difference(&plain, &fused);
                    assert!(difference <= ALLOWED_DIFFERENCE, "{}: {rows} rows: {name}: {difference:e}", context.gpu);
                }
            }
        }
    }
}
