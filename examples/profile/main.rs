//! What the operations of a training step cost on the device, by `wgpu-profiler`: a scope around each recorded step, in one pass.
//!
//! `cargo run --release --example profile`

#[path = "../support/mod.rs"]
mod support;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Gradient, Shape,
};
use wgpu_profiler::{GpuProfiler, GpuProfilerSettings, GpuTimerQueryResult, chrometrace};

use support::Gpu;

/// Times forward, backward and inference of one batch norm by wgpu-profiler, and writes a trace for chrome://tracing or Perfetto
#[derive(Debug, Parser)]
struct Arguments {
    /// The adapter whose name, backend or driver contains this (any case) [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Samples, channels, height, width
    #[arg(long, num_args = 4, default_values_t = [32, 64, 56, 56])]
    shape: Vec<usize>,
    /// Training steps, of which the last is shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Where the trace goes
    #[arg(long, default_value = "target/profile.json")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    support::main(arguments.adapter.as_deref(), |gpu| profile(&gpu, &arguments))
}

fn profile(gpu: &Gpu, arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES) {
        eprintln!("this device takes no timestamps inside passes");
        return Ok(ExitCode::from(2));
    }
    let channels = arguments.shape.get(1).map_or(0, |&channels| channels as u32);
    let batch_norm = BatchNormDescriptor { channels, label: Some("bn".into()), ..Default::default() };
    let layer = BatchNormLayer::new(&gpu.device, &BatchNormLayerDescriptor { batch_norm, ..Default::default() })?;
    let plan = layer.plan(&Shape::new(&arguments.shape)?)?;
    let [x, y, dy, dx] = ["x", "y", "dy", "dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
    let [input, output] = [&x, &y].map(|buffer| buffer.slice(..plan.tensor_size()));
    let forward = layer.bind_forward(&plan, &layer.training_buffers(input, output))?;
    let backward = layer.bind_backward(
        &forward,
        &BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(dx.slice(..plan.tensor_size()))),
            ..layer.backward_buffers(&forward, input, dy.slice(..plan.tensor_size()))
        },
    )?;

    let mut profiler = GpuProfiler::new(&gpu.device, GpuProfilerSettings::default())?;
    let mut last = Vec::new();
    for _ in 0..arguments.steps {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut scope = profiler.scope("training step", &mut encoder);
        let mut pass = scope.scoped_compute_pass("batch norm");
        forward.record(&mut pass.scope("forward"));
        backward.record(&mut pass.scope("backward"));
        drop(pass);
        drop(scope);
        profiler.resolve_queries(&mut encoder);
        gpu.queue.submit([encoder.finish()]);
        profiler.end_frame()?;
        gpu.wait();
        if let Some(results) = profiler.process_finished_frame(gpu.queue.get_timestamp_period()) {
            last = results;
        }
    }
    println!("\n{:<28} milliseconds", format!("shape {:?}", arguments.shape));
    print(&last, 0);
    if let Some(folder) = arguments.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    chrometrace::write_chrometrace(&arguments.out, &last)?;
    println!("\ntrace: {}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

fn print(results: &[GpuTimerQueryResult], depth: usize) {
    for result in results {
        let name = format!("{:depth$}{}", "", result.label, depth = 2 * depth);
        match &result.time {
            Some(time) => println!("{name:<28} {:>12.3}", (time.end - time.start) * 1e3),
            None => println!("{name:<28} {:>12}", "not timed"),
        }
        print(&result.nested_queries, depth + 1);
    }
}
