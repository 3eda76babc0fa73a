//! Measures what compiling costs on the machine at hand: each pipeline by itself, and what a program waits for before its first step.
//!
//! ```text
//! cargo run --release --example compile_time -- [--adapter SUBSTRING] [--every N] [--named SUBSTRING]
//!     [--activation NUMBER]
//! ```
//!
//! Drivers keep caches of what they have compiled; the first run after they are emptied is the one that counts (Mesa:
//! `MESA_SHADER_CACHE_DISABLE=true`). `tests/shaders/budget.rs` bounds what drivers are given.
//!
//! Exit code: 0 if all was compiled, 2 if there was nothing to compile on.

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use wgpu_batch_norm::shader::Variant;
use wgpu_batch_norm::{
    Activation, BackwardBuffers, BatchNorm, BatchNormDescriptor, ElementType, Error, Gradient, InferenceBuffers,
    Layout, Shape, TrainingBuffers, wgpu,
};

use crate::support::Gpu;

/// Measure how long pipelines take to be created
#[derive(Parser)]
struct Arguments {
    /// The adapter whose name, backend or driver contains this [default: the best one]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// One in N of the variants; 0 leaves them out [default: 50]
    #[arg(long, value_name = "N")]
    every: Option<usize>,
    /// Only variants whose names contain this, all of them unless --every is said too
    #[arg(long, value_name = "SUBSTRING")]
    named: Option<String>,
    /// The activation of pipelines that have one, as the shaders number them [default: SiLU]
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    activation: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(gpu) = support::open_best(arguments.adapter.as_deref()) else {
        eprintln!("{}", support::missing(arguments.adapter.as_deref()));
        return ExitCode::from(2);
    };
    println!("{gpu}");
    if arguments.named.is_none()
        && let Err(error) = uses(&gpu)
    {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let every = arguments.every.unwrap_or(if arguments.named.is_some() { 1 } else { 50 });
    if every > 0 {
        variants(&gpu, &arguments, every);
    }
    ExitCode::SUCCESS
}

/// One in so many of all variants, with wgpu's checks, each compiled by itself.
fn variants(gpu: &Gpu, arguments: &Arguments, every: usize) {
    let invocations = gpu.device.limits().max_compute_invocations_per_workgroup.min(256);
    let values = [
        ("WORKGROUP_SIZE", f64::from(invocations)),
        ("ACTIVATION", f64::from(arguments.activation)),
        ("COMPANION", 1.0),
        ("BRAIN_FLOAT", 1.0),
    ];
    let named = |variant: &Variant| arguments.named.as_ref().is_none_or(|part| variant.name().contains(part));
    let double_words = gpu.device.features().contains(wgpu::Features::SHADER_INT64);
    let mut times: Vec<(f64, String)> = Variant::all()
        .filter(named)
        .filter(|variant| double_words || !variant.double_words)
        .step_by(every)
        .map(|variant| {
            let source = variant.source();
            let constants: Vec<_> =
                values.into_iter().filter(|(name, _)| source.contains(&format!("override {name}:"))).collect();
            let start = Instant::now();
            let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            let time = 1e3 * start.elapsed().as_secs_f64();
            drop(pipeline);
            (time, variant.name())
        })
        .collect();
    if times.is_empty() {
        println!("no variant has such a name");
        return;
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at = |share: f64| &times[((times.len() - 1) as f64 * share) as usize];
    println!("\n{} of {} variants, ms a pipeline:", times.len(), Variant::all().count());
    for (name, share) in [("least", 0.0), ("median", 0.5), ("90 %", 0.9), ("worst", 1.0)] {
        println!("{name:8} {:8.1}  {}", at(share).0, at(share).1);
    }
}

/// From nothing to steps that can be recorded, for layers as networks have them.
fn uses(gpu: &Gpu) -> Result<(), Error> {
    println!("\nms from `BatchNorm::new` to a step, nothing compiled before:");
    println!("{:44} {:>9} {:>9} {:>9} {:>9}", "", "training", "backward", "inference", "new shape");
    let image = BatchNormDescriptor { channels: 64, ..Default::default() };
    let last = BatchNormDescriptor { layout: Layout::ChannelsLast, ..image.clone() };
    let relu = BatchNormDescriptor { activation: Activation::Relu, ..image.clone() };
    let gelu = BatchNormDescriptor { activation: Activation::Gelu, element: ElementType::F16, ..last.clone() };
    let dense = BatchNormDescriptor { channels: 512, ..Default::default() };
    for (name, descriptor, shape) in [
        ("images, channels first", &image, &[32, 64, 56, 56][..]),
        ("images, channels last", &last, &[32, 56, 56, 64]),
        ("images, channels first, ReLU", &relu, &[32, 64, 56, 56]),
        ("images, channels last, f16, GELU", &gelu, &[32, 56, 56, 64]),
        ("vectors", &dense, &[1024, 512]),
    ] {
        let mut times = [0.0; 4];
        for (operation, time) in times.iter_mut().enumerate() {
            let buffers = Buffers::new(gpu, descriptor, shape)?;
            let start = Instant::now();
            let bn = BatchNorm::new(&gpu.device, descriptor)?;
            buffers.bind(&bn, operation % 3, shape)?;
            *time = 1e3 * start.elapsed().as_secs_f64();
            if operation == 3 {
                // The pipelines are there, and another batch needs the same ones.
                let larger: Vec<usize> = [&[shape[0] + 1], &shape[1..]].concat();
                let buffers = Buffers::new(gpu, descriptor, &larger)?;
                let start = Instant::now();
                buffers.bind(&bn, 0, &larger)?;
                *time = 1e3 * start.elapsed().as_secs_f64();
            }
        }
        println!("{name:44} {:9.1} {:9.1} {:9.1} {:9.3}", times[0], times[1], times[2], times[3]);
    }
    Ok(())
}

/// x, y, g, dx; gamma, beta, dgamma, dbeta, mean and variance; the workspace.
struct Buffers {
    tensors: [wgpu::Buffer; 4],
    vectors: [wgpu::Buffer; 6],
    workspace: wgpu::Buffer,
}

impl Buffers {
    fn new(gpu: &Gpu, descriptor: &BatchNormDescriptor, shape: &[usize]) -> Result<Self, Error> {
        let plan = BatchNorm::new(&gpu.device, descriptor)?.plan(&Shape::new(shape)?)?;
        Ok(Self {
            tensors: [(); 4].map(|()| gpu.zeroed("tensor", plan.tensor_size())),
            vectors: [(); 6].map(|()| gpu.zeroed("vector", plan.vector_size())),
            workspace: gpu.zeroed("workspace", plan.workspace_size()),
        })
    }

    fn bind(&self, bn: &BatchNorm, operation: usize, shape: &[usize]) -> Result<(), Error> {
        let plan = bn.plan(&Shape::new(shape)?)?;
        let [x, y, g, dx] = self.tensors.each_ref().map(|tensor| tensor.slice(..plan.tensor_size()));
        let vectors = self.vectors.each_ref().map(|vector| vector.slice(..plan.vector_size()));
        let [gamma, beta, dgamma, dbeta, mean, variance] = vectors;
        let workspace = self.workspace.slice(..plan.workspace_size());
        match operation {
            0 => {
                let buffers =
                    TrainingBuffers { gamma: Some(gamma), beta: Some(beta), ..TrainingBuffers::new(x, y, workspace) };
                bn.bind_training(&plan, &buffers).map(drop)
            }
            1 => {
                let buffers = BackwardBuffers {
                    gamma: Some(gamma),
                    beta: Some(beta),
                    input_gradient: Some(Gradient::Overwrite(dx)),
                    gamma_gradient: Some(Gradient::Overwrite(dgamma)),
                    beta_gradient: Some(Gradient::Overwrite(dbeta)),
                    ..BackwardBuffers::new(x, g, workspace)
                };
                bn.bind_backward(&plan, &buffers).map(drop)
            }
            _ => {
                let buffers = InferenceBuffers {
                    gamma: Some(gamma),
                    beta: Some(beta),
                    ..InferenceBuffers::new(x, y, mean, variance)
                };
                bn.bind_inference(&plan, &buffers).map(drop)
            }
        }
    }
}
