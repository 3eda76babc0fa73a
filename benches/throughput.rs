//! Throughput of every operation beside a copy and a read-only sum of the same tensor, measured in the same run.
//!
//! `cargo bench --bench throughput [-- FILTER]`. Times are GPU timestamps where the device has them, else the wall clock
//! around a submission. Bytes are the ideal ones: each input read once, each output written once. Absolute figures say
//! something about the adapter, which the group names tell; ratios to `copy` of the same group say something about the
//! kernels.
#![allow(
    dead_code,
    unused_imports,
    reason = "most modules are those of the `throughput` example, which uses and tests all"
)]

#[path = "../examples/throughput/buffers.rs"]
mod buffers;
#[path = "../examples/throughput/configuration.rs"]
mod configuration;
#[path = "../examples/throughput/element.rs"]
mod element;
#[path = "../examples/throughput/operations.rs"]
mod operations;
#[path = "../examples/throughput/shapes.rs"]
mod shapes;
#[path = "../examples/support/mod.rs"]
mod support;
#[path = "../examples/throughput/timer.rs"]
mod timer;
#[path = "../examples/throughput/yardstick.rs"]
mod yardstick;

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use wgpu_batch_norm::{BatchNorm, Kernels, Layout};

use crate::buffers::Buffers;
use crate::configuration::{Activation, Configuration};
use crate::element::Element;
use crate::operations::{Bound, Operation};
use crate::shapes::Dims;
use crate::support::Gpu;
use crate::timer::{Record, Timer};
use crate::yardstick::Yardstick;

const SHAPES: [Dims; 7] = [
    [32, 64, 56, 56],
    [32, 256, 14, 14],
    [32, 512, 7, 7],
    [1024, 512, 1, 1],
    [16, 3, 224, 224],
    [256, 32, 8, 8],
    [20, 6, 256, 256],
];

/// What is needed to measure any shape.
struct Bench<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
    timer: Timer<'a>,
    copies: Vec<Yardstick>,
    sums: Vec<Yardstick>,
}

impl Bench<'_> {
    fn measure(&self, criterion: &mut Criterion, configuration: Configuration, dims: Dims, layout: Layout) {
        let shape = shapes::stored(dims, layout).expect("rank 4");
        let name = match layout {
            Layout::ChannelsFirst => "first",
            Layout::ChannelsLast => "last",
        };
        let descriptor = configuration.descriptor(dims[1], layout);
        let bn = BatchNorm::with_kernels(&self.kernels, &descriptor).expect("the descriptor is valid");
        let plan = bn.plan(&shape).expect("the shape fits");
        let buffers = Buffers::new(self.gpu, &plan, plan.workspace_size(), configuration, 0).expect("the buffers fit");
        let size = plan.tensor_size();
        let yardsticks = self.copies.iter().map(|copy| ("copy", 2 * size, copy));
        let yardsticks = yardsticks.chain(self.sums.iter().map(|sum| ("sum", size, sum)));
        let yardsticks = yardsticks.map(|(name, bytes, yardstick)| {
            let name = format!("{name}, workgroups of {}", yardstick.workgroup_size());
            (name, bytes, yardstick.bind(self.gpu, &buffers.input, &buffers.output, size))
        });
        let yardsticks: Vec<_> = yardsticks.collect();
        let operations: Vec<(Operation, Bound)> = Operation::ALL
            .into_iter()
            .map(|operation| (operation, operation.bind(&bn, &plan, &buffers).expect("the buffers fit")))
            .collect();
        let mut benchmarks: Vec<(&str, u64, Record<'_>)> = Vec::new();
        for (name, bytes, bound) in &yardsticks {
            benchmarks.push((name, *bytes, Box::new(|_, pass| bound.record(pass))));
        }
        benchmarks.extend(operations.iter().map(|(operation, bound)| {
            let record: Record<'_> = Box::new(|_, pass| bound.record(pass));
            (operation.name(), operation.ideal_bytes(&configuration, &plan), record)
        }));

        let [n, c, h, w] = dims;
        let adapter = &self.gpu.info.name;
        let mut group = criterion.benchmark_group(format!("{adapter} {configuration} {name} {n}x{c}x{h}x{w}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
        for (name, bytes, record) in &benchmarks {
            group.throughput(Throughput::Bytes(*bytes));
            group.bench_function(*name, |bencher| {
                bencher.iter_custom(|iterations| Duration::from_secs_f64(self.timer.pass(iterations as usize, record)));
            });
        }
        group.finish();
    }
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
    let (kernels, timer) = (Kernels::new(&gpu.device), Timer::new(&gpu, false));
    let [copies, sums] = yardstick::fastest(&gpu, &timer, kernels.profile().class, false);
    let bench = Bench { gpu: &gpu, kernels, timer, copies, sums };
    let plain = Configuration::default();
    let half = Configuration { element: Element::F16, ..plain };
    let fused = Configuration { activation: Activation::Relu, residual: true, ..plain };
    let cases = SHAPES.map(|dims| (plain, dims)).into_iter().chain([half, fused].map(|other| (other, SHAPES[0])));
    for (configuration, dims) in cases {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            bench.measure(criterion, configuration, dims, layout);
        }
    }
}

criterion_group!(benches, throughput);
criterion_main!(benches);
