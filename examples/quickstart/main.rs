//! One training step of one batch norm, on whatever adapter there is: the lines of the README, with data and printed results.
//!
//! `cargo run --release --example quickstart`

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use clap::Parser;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Error, Gradient, Shape,
};

use support::Gpu;

const SAMPLES: usize = 32;
/// The library counts channels in `u32`, as the device does; dimensions of shapes are `usize`.
const CHANNELS: u32 = 4;
/// Height times width.
const PIXELS: usize = 8 * 8;

/// One training step of one batch norm: statistics before and after, running statistics, and the gradient of gamma
#[derive(Debug, Parser)]
struct Arguments {
    /// The adapter whose name, backend or driver contains this (any case) [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    let filter = Arguments::parse().adapter;
    support::main(filter.as_deref(), |gpu| train_once(&gpu).map(|()| ExitCode::SUCCESS))
}

fn train_once(gpu: &Gpu) -> Result<(), Error> {
    // Your data: here channel c has the mean 10·c and about the deviation c + 1.
    let x = values(1, |channel, noise| 10.0 * channel + (channel + 1.0) * noise);
    let dy = values(2, |_, noise| noise);
    let (x_buffer, dy_buffer) = (gpu.upload("x", &x), gpu.upload("dy", &dy));

    // Describe, plan, bind: once. The layer owns gamma, beta, their gradients and running statistics.
    let batch_norm = BatchNormDescriptor { channels: CHANNELS, ..Default::default() };
    let layer = BatchNormLayer::new(&gpu.device, &BatchNormLayerDescriptor { batch_norm, ..Default::default() })?;
    let plan = layer.plan(&Shape::new(&[SAMPLES, CHANNELS as usize, 8, 8])?)?;
    let [y, dx] = ["y", "dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
    let forward = layer.bind_forward(&plan, &layer.training_buffers(x_buffer.slice(..), y.slice(..)))?;
    let backward = layer.bind_backward(
        &forward,
        &BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
            ..layer.backward_buffers(&forward, x_buffer.slice(..), dy_buffer.slice(..))
        },
    )?;

    // Record into your pass and submit: every training step.
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    forward.record(&mut pass);
    backward.record(&mut pass);
    drop(pass);
    gpu.queue.submit([encoder.finish()]);

    // Look at what came of it.
    let before = x.as_slice();
    let after: Vec<f32> = gpu.read(&y, x.len());
    let [running_mean, running_variance, dgamma] =
        [layer.running_mean(), layer.running_variance(), layer.gamma_gradient()]
            .map(|buffer| gpu.read::<f32>(buffer.expect("a layer has them by default"), CHANNELS as usize));
    println!("\nchannel | x: mean  deviation | y: mean  deviation | running: mean  variance |   dgamma");
    for channel in 0..CHANNELS as usize {
        let [(mean, deviation), (mean_after, deviation_after)] =
            [before, &after].map(|tensor| mean_and_deviation(tensor, channel));
        println!(
            "{channel:>7} | {mean:>7.3} {deviation:>10.3} | {mean_after:>7.3} {deviation_after:>10.3} | {:>13.3} {:>9.3} | {:>8.3}",
            running_mean[channel], running_variance[channel], dgamma[channel]
        );
    }
    println!("\nRunning statistics went a tenth of the way from 0 and 1 to those of x, by the convention of PyTorch.");
    Ok(())
}

/// A tensor in the order (sample, channel, pixel), from the channel and a number that looks random, of mean 0 and deviation 1.
fn values(seed: u32, value: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state as f32 / u32::MAX as f32 - 0.5) * 12.0_f32.sqrt()
    };
    let channels = CHANNELS as usize;
    (0..SAMPLES * channels * PIXELS).map(|index| value((index / PIXELS % channels) as f32, noise())).collect()
}

fn mean_and_deviation(tensor: &[f32], channel: usize) -> (f64, f64) {
    let planes = tensor.chunks(PIXELS).skip(channel).step_by(CHANNELS as usize);
    let values: Vec<f64> = planes.flatten().copied().map(f64::from).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt())
}
