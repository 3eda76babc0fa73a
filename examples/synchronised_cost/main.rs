//! What an exchange costs: measured over the ranks of an MPI job, and computed for clusters.
//!
//! `mpirun -n 4 target/release/examples/synchronised_cost`, after
//! `cargo build --release --features mpi --example synchronised_cost`
//!
//! Rank 0 prints tables: the bytes and the time of a gather and of a whole exchange with the device, how much of it hides behind
//! other work of the device, and what ResNet-50's 53 batch norms cost on a network by a model whose assumptions it states.

mod simulation;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use clap::Parser;
use support::Gpu;
use wgpu_batch_norm::exchange::{BoxError, Collective, Exchange, ExchangeItem, MpiCollective};
use wgpu_batch_norm::{BatchNorm, BatchNormDescriptor, ChannelMoments, PartBuffers, Shape, TrainingBuffers, mpi, wgpu};

const CHANNELS: [usize; 4] = [64, 256, 1024, 2048];
/// Layers in one message, in the last rows.
const LAYERS: usize = 16;

/// Measures exchanges over the ranks of an MPI job and computes their cost on clusters.
#[derive(Debug, Parser)]
struct Arguments {
    /// Times that each thing is measured; medians are printed.
    #[arg(long, default_value_t = 101)]
    repetitions: usize,
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    let universe = mpi::initialize().ok_or("MPI could not be initialised")?;
    let mut ranks = MpiCollective::new(&universe.world(), Duration::from_secs(60))?;
    let mut trusting = MpiCollective::new(&universe.world(), Duration::from_secs(60))?.without_comparison();
    let gpu = support::open_best(None).ok_or(support::NO_ADAPTER)?;
    let speaks = ranks.rank() == 0;
    if speaks {
        println!("{} ranks, each on {}\n", ranks.ranks(), gpu.info.name);
        println!("channels  layers  bytes a rank  gather      with calls compared  exchange with the device");
    }
    let sizes = CHANNELS.map(|channels| (channels, 1)).into_iter().chain([(256, LAYERS)]);
    let mut measured = Vec::new();
    for (channels, layers) in sizes {
        let (bytes, [gather, compared, whole]) =
            exchange(&gpu, [&mut trusting, &mut ranks], channels, layers, arguments.repetitions)?;
        // On a busy machine a gather may take longer than what it is a part of.
        measured.extend(whole.checked_sub(compared));
        if speaks {
            println!("{channels:>8}  {layers:>6}  {bytes:>12}  {gather:>8.1?}  {compared:>17.1?}  {whole:>8.1?}");
        }
    }
    let [other, apart, together] = overlap(&gpu, &mut ranks, arguments.repetitions)?;
    if speaks {
        println!(
            "\non a network slowed by {SLOWNESS:?}: other work of the device {other:.1?}; after an exchange of 256 channels {apart:.1?}, \
             beside it {together:.1?}\n"
        );
        simulation::print(measured.into_iter().min());
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Bytes of a message; a gather of messages, the same with calls compared, and a whole exchange.
fn exchange(
    gpu: &Gpu,
    [trusting, ranks]: [&mut MpiCollective; 2],
    channels: usize,
    layers: usize,
    repetitions: usize,
) -> Result<(usize, [Duration; 3]), BoxError> {
    let bn = BatchNorm::new(&gpu.device, &BatchNormDescriptor { channels: channels as u32, ..Default::default() })?;
    let plan = bn.plan(&Shape::new(&[2, channels])?)?;
    let records = vec![ChannelMoments { count: 2, pivot: 1.0, offset: 0.0, m2: 1.0 }; channels];
    let buffers: Vec<_> = (0..layers).map(|_| gpu.upload("moments", &records)).collect();
    let items: Vec<_> = buffers.iter().map(|buffer| ExchangeItem::moments(&plan, buffer.slice(..))).collect();
    let mut exchange = Exchange::new(&gpu.device, &items)?;
    let length = exchange.layout().length();
    let mut messages = vec![0.0_f32; length * ranks.ranks()];
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let [gathers, compared, wholes] = &mut times;
    for _ in 0..repetitions {
        for (gathers, ranks) in [(&mut *gathers, &mut *trusting), (&mut *compared, &mut *ranks)] {
            // So that nobody is waited for.
            ranks.all_sum(&mut [0.0])?;
            let start = Instant::now();
            ranks.all_gather(&mut messages)?;
            gathers.push(start.elapsed());
        }
        for buffer in &buffers {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&records));
        }
        gpu.queue.submit([]);
        gpu.wait();
        ranks.all_sum(&mut [0.0])?;
        let start = Instant::now();
        run(gpu, &mut exchange, ranks)?;
        gpu.queue.submit([]);
        gpu.wait();
        wholes.push(start.elapsed());
    }
    Ok((4 * length, times.map(median)))
}

fn run(gpu: &Gpu, exchange: &mut Exchange, ranks: &mut MpiCollective) -> Result<(), BoxError> {
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    exchange.record(&mut encoder)?;
    gpu.queue.submit([encoder.finish()]);
    gpu.wait();
    Ok(exchange.finish(&gpu.queue, ranks)?)
}

/// Ranks on a slow network: every gather takes so much longer.
struct Slow<'a>(&'a mut MpiCollective);

const SLOWNESS: Duration = Duration::from_millis(3);

impl Collective for Slow<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn ranks(&self) -> usize {
        self.0.ranks()
    }

    fn all_gather(&mut self, messages: &mut [f32]) -> Result<(), BoxError> {
        std::thread::sleep(SLOWNESS);
        self.0.all_gather(messages)
    }
}

/// A training forward of another layer alone; after an exchange has ended; and submitted before it ends.
fn overlap(gpu: &Gpu, ranks: &mut MpiCollective, repetitions: usize) -> Result<[Duration; 3], BoxError> {
    let bn = BatchNorm::new(&gpu.device, &BatchNormDescriptor { channels: 256, ..Default::default() })?;
    let plan = bn.plan(&Shape::new(&[8, 256, 14, 14])?)?;
    let buffer = |size| gpu.zeroed("overlap", size);
    let (x, y, workspace) = (buffer(plan.tensor_size()), buffer(plan.tensor_size()), buffer(plan.workspace_size()));
    let moments = buffer(plan.part_moments_size());
    let part = PartBuffers::new(x.slice(..), moments.slice(..), workspace.slice(..));
    let part = bn.bind_part_moments(&plan, &part)?;
    let other = buffer(plan.workspace_size());
    let training = bn.bind_training(&plan, &TrainingBuffers::new(x.slice(..), y.slice(..), other.slice(..)))?;
    let mut exchange = Exchange::new(&gpu.device, &[ExchangeItem::moments(&plan, moments.slice(..))])?;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..repetitions {
        for (mode, times) in times.iter_mut().enumerate() {
            ranks.all_sum(&mut [0.0])?;
            let start = Instant::now();
            if mode > 0 {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                part.record_into(&mut encoder);
                exchange.record(&mut encoder)?;
                let submission = gpu.queue.submit([encoder.finish()]);
                if mode == 2 {
                    gpu.submit(|pass| training.record(pass));
                }
                let timeout = Some(Duration::from_secs(60));
                gpu.device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout })?;
                exchange.finish(&gpu.queue, &mut Slow(ranks))?;
                gpu.queue.submit([]);
            }
            if mode < 2 {
                gpu.submit(|pass| training.record(pass));
            }
            gpu.wait();
            times.push(start.elapsed());
        }
    }
    Ok(times.map(median))
}
