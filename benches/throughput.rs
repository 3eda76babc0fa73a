//! Throughput of every operation beside a copy and a read-only sum of the same tensor, measured in the same run.
//!
//! `cargo bench --bench throughput [-- FILTER]`. Times are GPU timestamps where the device has them, else the wall clock
//! around a submission. Bytes are the ideal ones: each input read once, each output written once. Absolute figures say
//! something about the adapter, which the group names tell; ratios to `copy` of the same group say something about the
//! kernels.

#[path = "../examples/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use support::Gpu;
use wgpu_batch_norm::{
    AdapterClass, BackwardBuffers, BatchNorm, BatchNormDescriptor, Gradient, InferenceBuffers, Kernels, Layout,
    RunningStatistics, Shape, TrainingBuffers,
};

/// (N, C, H, W); channels last takes the same numbers in its own order.
const SHAPES: [[usize; 4]; 7] = [
    [32, 64, 56, 56],
    [32, 256, 14, 14],
    [32, 512, 7, 7],
    [1024, 512, 1, 1],
    [16, 3, 224, 224],
    [256, 32, 8, 8],
    [20, 6, 256, 256],
];

/// Times passes by timestamps, or by the wall clock where there are none.
struct Timer<'a> {
    gpu: &'a Gpu,
    timestamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

impl<'a> Timer<'a> {
    fn new(gpu: &'a Gpu) -> Self {
        let timestamps = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("wgpu_batch_norm::bench::timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu_batch_norm::bench::resolved"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (queries, resolved)
        });
        Self { gpu, timestamps }
    }

    /// The time of one pass in which `record` was called `iterations` times.
    fn time(&self, iterations: u64, record: impl Fn(&mut wgpu::ComputePass<'_>)) -> Duration {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: self.timestamps.as_ref().map(|(queries, _)| wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            for _ in 0..iterations {
                record(&mut pass);
            }
        }
        if let Some((queries, resolved)) = &self.timestamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
        }
        let commands = encoder.finish();
        let started = Instant::now();
        self.gpu.queue.submit([commands]);
        self.gpu.wait();
        let Some((_, resolved)) = &self.timestamps else { return started.elapsed() };
        let ticks: Vec<u64> = self.gpu.read(resolved, 2);
        let period = f64::from(self.gpu.queue.get_timestamp_period());
        Duration::from_nanos((ticks[1].saturating_sub(ticks[0]) as f64 * period) as u64)
    }
}

/// A yardstick kernel over `input`, writing to `output`.
struct Yardstick {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Yardstick {
    fn new(gpu: &Gpu, class: AdapterClass, text: &str, input: &wgpu::Buffer, output: &wgpu::Buffer, size: u64) -> Self {
        // What is fastest on lavapipe; the `throughput` example tries several block counts on the device at hand.
        let (workgroup_size, blocks): (u32, u32) = if class == AdapterClass::Cpu { (64, 1) } else { (256, 4) };
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let constants = [("WORKGROUP_SIZE", f64::from(workgroup_size)), ("BLOCKS", f64::from(blocks))];
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
        let entry = |binding, buffer| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset: 0,
                size: wgpu::BufferSize::new(size),
            }),
        };
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[entry(0, input), entry(1, output)],
        });
        let groups = (size / 16).div_ceil(u64::from(workgroup_size * 4 * blocks)) as u32;
        let width = groups.min(65535);
        Self { pipeline, bind_group, workgroups: [width, groups.div_ceil(width)] }
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

fn bench_shape(criterion: &mut Criterion, gpu: &Gpu, kernels: &Kernels, dims: [usize; 4], layout: Layout) {
    let [n, c, h, w] = dims;
    let (shape, name) = match layout {
        Layout::ChannelsFirst => ([n, c, h, w], format!("first {n}x{c}x{h}x{w}")),
        Layout::ChannelsLast => ([n, h, w, c], format!("last {n}x{h}x{w}x{c}")),
    };
    let descriptor = BatchNormDescriptor { channels: c as u32, layout, ..Default::default() };
    let bn = BatchNorm::with_kernels(kernels, &descriptor).expect("the descriptor is valid");
    let plan = bn.plan(&Shape::new(&shape).expect("rank 4")).expect("the shape fits");
    let size = plan.tensor_size();
    // Not zeros: some devices are quicker on them.
    let values: Vec<f32> =
        (0..size / 4).map(|i| (i.wrapping_mul(2_654_435_761) % 8191) as f32 / 4096.0 - 1.0).collect();
    let (x, dy) = (gpu.upload("x", &values), gpu.upload("dy", &values));
    let (y, dx) = (gpu.zeroed("y", size), gpu.zeroed("dx", size));
    let vectors: Vec<_> = (0..6).map(|_| gpu.upload("vector", &vec![1.0_f32; c])).collect();
    let vector = |index: usize| vectors[index].slice(..plan.vector_size());
    let saved = gpu.zeroed("saved", plan.saved_size());
    let workspace = gpu.zeroed("workspace", plan.workspace_size());
    let training = bn
        .bind_training(
            &plan,
            &TrainingBuffers {
                input: x.slice(..size),
                output: y.slice(..size),
                gamma: Some(vector(0)),
                beta: Some(vector(1)),
                running: Some(RunningStatistics { mean: vector(2), variance: vector(3), batches_tracked: None }),
                saved: Some(saved.slice(..)),
                workspace: workspace.slice(..),
            },
        )
        .expect("the buffers fit");
    let inference = bn
        .bind_inference(
            &plan,
            &InferenceBuffers {
                input: x.slice(..size),
                output: y.slice(..size),
                gamma: Some(vector(0)),
                beta: Some(vector(1)),
                running_mean: vector(2),
                running_variance: vector(3),
            },
        )
        .expect("the buffers fit");
    let backward = bn
        .bind_backward(
            &plan,
            &BackwardBuffers {
                input: x.slice(..size),
                output_gradient: dy.slice(..size),
                gamma: Some(vector(0)),
                saved: Some(saved.slice(..)),
                input_gradient: Some(Gradient::Overwrite(dx.slice(..size))),
                gamma_gradient: Some(Gradient::Overwrite(vector(4))),
                beta_gradient: Some(Gradient::Overwrite(vector(5))),
                workspace: workspace.slice(..),
            },
        )
        .expect("the buffers fit");
    let class = kernels.profile().class;
    let copy = Yardstick::new(gpu, class, include_str!("kernels/copy.wgsl"), &x, &y, size);
    let sum = Yardstick::new(gpu, class, include_str!("kernels/sum.wgsl"), &x, &y, size);

    let timer = Timer::new(gpu);
    let mut group = criterion.benchmark_group(format!("{} {name}", gpu.info.name));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    type Record<'a> = Box<dyn Fn(&mut wgpu::ComputePass<'_>) + 'a>;
    let benchmarks: [(&str, u64, Record<'_>); 5] = [
        ("copy", 2, Box::new(|pass| copy.record(pass))),
        ("sum", 1, Box::new(|pass| sum.record(pass))),
        ("training", 2, Box::new(|pass| training.record(pass))),
        ("inference", 2, Box::new(|pass| inference.record(pass))),
        ("backward", 3, Box::new(|pass| backward.record(pass))),
    ];
    for (name, tensors, record) in benchmarks {
        group.throughput(Throughput::Bytes(tensors * size));
        group.bench_function(name, |bencher| bencher.iter_custom(|iterations| timer.time(iterations, &record)));
    }
    group.finish();
}

fn throughput(criterion: &mut Criterion) {
    // Criterion lists benchmarks by running this, so nothing is opened before it is asked to measure.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let Some(gpu) = support::open_best(std::env::var("WGPU_ADAPTER_NAME").ok().as_deref()) else {
        eprintln!("{}", support::NO_ADAPTER);
        std::process::exit(1);
    };
    println!("adapter: {gpu}");
    let kernels = Kernels::new(&gpu.device);
    for dims in SHAPES {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            bench_shape(criterion, &gpu, &kernels, dims, layout);
        }
    }
}

criterion_group!(benches, throughput);
criterion_main!(benches);
