//! What the host pays to plan, to bind and to record a step.

use std::time::Instant;

use wgpu_batch_norm::{Error, Layout};

use crate::buffers::Buffers;
use crate::measure::Bench;
use crate::shapes::Dims;
use crate::timer::Summary;

/// None of the costs depends on the size of the tensor, so a small one does.
const DIMS: Dims = [256, 32, 8, 8];

const SAMPLES: usize = 101;

/// Recordings in one pass, so that beginning and finishing it do not show.
const RECORDS: usize = 64;

pub fn print(bench: &Bench<'_>) {
    println!(
        "Host, microseconds, medians of {SAMPLES}; bind creates uniform buffer and bind groups, record includes its \
         share of `finish`"
    );
    println!("{:15} {:>4} {:>8} {:>8} {:>8}", "op", "disp", "plan", "bind", "record");
    if let Err(message) = print_rows(bench) {
        println!("{message}");
    }
}

fn print_rows(bench: &Bench<'_>) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let (bn, plan) = bench.plan(DIMS, Layout::ChannelsFirst).map_err(text)?;
    let buffers = Buffers::new(bench.gpu, &plan, plan.workspace_size(), bench.configuration, 0)?;
    let shape = bench.configuration.shape(DIMS, Layout::ChannelsFirst).map_err(text)?;
    let planning = median(|| std::hint::black_box(bn.plan(std::hint::black_box(&shape))).map(drop)).map_err(text)?;
    for operation in &bench.operations {
        let bound = match operation.bind(&bn, &plan, &buffers) {
            Ok(bound) => bound,
            Err(error) => {
                println!("{:15} {error}", operation.name());
                continue;
            }
        };
        let binding = median(|| operation.bind(&bn, &plan, &buffers).map(drop)).map_err(text)?;
        // Frees what the dropped steps held.
        bench.gpu.queue.submit([]);
        bench.gpu.wait();
        let recording = median(|| {
            let mut encoder = bench.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                (0..RECORDS).for_each(|_| bound.record(&mut pass));
            }
            drop(encoder.finish());
            Ok(())
        })
        .map_err(text)?;
        println!(
            "{:15} {:>4} {planning:>8.2} {binding:>8.2} {:>8.2}",
            operation.name(),
            bound.dispatch_count(),
            recording / RECORDS as f64
        );
    }
    Ok(())
}

/// Microseconds of one call.
fn median(mut call: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    call()?;
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let started = Instant::now();
        call()?;
        samples.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Summary::of(samples).time)
}
