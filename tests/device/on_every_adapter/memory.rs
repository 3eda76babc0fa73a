//! Memory that runs out, for real: in a process of its own, whose address space is limited once everything is set up, so that
//! drivers get no more from the system.

use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::common::on_every_target;
use crate::common::support::{self, Gpu};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wgpu_batch_norm::{
    BatchNorm, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Error, InferenceBuffers, Kernels, Plan,
    Shape, Step, TrainingBuffers, TrainingStep, wgpu,
};

/// Which of the machine's adapters the process is for.
const ADAPTER: &str = "WGPU_BATCH_NORM_MEMORY_OF_ADAPTER";

/// Left to the process and its driver for what they do with what they have.
const SPARE: u64 = 48 << 20;

#[test]
fn memory_that_runs_out_is_an_error_of_its_own_and_nothing_is_lost() {
    on_every_target(|target| {
        // Plans make no difference.
        if target.plan > 0 {
            return;
        }
        // wgpu asks OpenGL for no errors, and so is not told that there was no memory.
        if target.gpu.info.backend == wgpu::Backend::Gl {
            println!("{target}: OpenGL does not say that memory ran out");
            return;
        }
        let adapter = support::open_all(None).iter().position(|gpu| gpu.info == target.gpu.info).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "on_every_adapter::memory::in_a_process_without_memory", "--ignored", "--nocapture"]);
        let output = child.env(ADAPTER, adapter.to_string()).output().unwrap();
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let went_on = out.contains(&format!("{}: ran out and went on", target.gpu));
        assert!(output.status.success() && went_on, "{target}: {out}\n{err}");
        // Under the validation layer, whose messages nobody else reads of this process.
        if std::env::var_os("VK_INSTANCE_LAYERS").is_some() {
            assert!(out.contains("Khronos Validation Layer Active"), "{target}: {out}\n{err}");
            let message = ["(ERROR / ", "(WARN / ", "(PERF / "].iter().any(|severity| out.contains(severity));
            assert!(!message, "{target}: {out}\n{err}");
        }
    });
}

/// Training that is set up and goes on.
struct Training {
    step: TrainingStep,
    output: wgpu::Buffer,
    elements: usize,
}

impl Training {
    fn new(gpu: &Gpu, kernels: &Kernels) -> Self {
        let bn = BatchNorm::with_kernels(kernels, &BatchNormDescriptor { channels: 8, ..Default::default() }).unwrap();
        let plan = bn.plan(&Shape::new(&[4, 8, 16]).unwrap()).unwrap();
        let elements = plan.problem().elements() as usize;
        let values: Vec<f32> = (0..elements).map(|index| (index as f32 * 0.37).sin()).collect();
        let (input, output) = (gpu.upload("input", &values), gpu.zeroed("output", plan.tensor_size()));
        let workspace = gpu.zeroed("workspace", plan.workspace_size());
        let tensor = ..plan.tensor_size();
        let buffers = TrainingBuffers::new(input.slice(tensor), output.slice(tensor), workspace.slice(..));
        Self { step: bn.bind_training(&plan, &buffers).unwrap(), output, elements }
    }

    fn run(&self, gpu: &Gpu) -> Vec<u32> {
        gpu.submit(|pass| self.step.record(pass));
        gpu.read(&self.output, self.elements)
    }
}

/// Inference of so many windows, in place, that binding it takes more memory than drivers have left in what they hold already.
struct Windows {
    bn: BatchNorm,
    plan: Plan,
    tensor: wgpu::Buffer,
    running: [wgpu::Buffer; 2],
}

impl Windows {
    fn new(gpu: &Gpu, kernels: &Kernels) -> Self {
        let kernels = kernels.with_max_window_size(1 << 10);
        let bn = BatchNorm::with_kernels(&kernels, &BatchNormDescriptor { channels: 8, ..Default::default() }).unwrap();
        let plan = bn.plan(&Shape::new(&[1, 8, 1 << 16]).unwrap()).unwrap();
        assert!(plan.window_count() > 2000, "{} windows", plan.window_count());
        let tensor = gpu.zeroed("tensor", plan.tensor_size());
        let running = ["mean", "variance"].map(|label| gpu.zeroed(label, plan.running_size()));
        Self { bn, plan, tensor, running }
    }

    fn bind(&self) -> Result<Step, Error> {
        let tensor = self.tensor.slice(..self.plan.tensor_size());
        let [mean, variance] = [0, 1].map(|which| self.running[which].slice(..self.plan.running_size()));
        self.bn.bind_inference(&self.plan, &InferenceBuffers::new(tensor, tensor, mean, variance))
    }
}

/// Buffers like those that hold a step's parameters, until there is no memory for another one.
fn fill(gpu: &Gpu) -> Vec<wgpu::Buffer> {
    let mut fillers = Vec::new();
    loop {
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("filler"),
            size: 256 << 10,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        if pollster::block_on(scope.pop()).is_some() {
            return fillers;
        }
        fillers.push(buffer);
    }
}

/// Of this process, in bytes.
fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

fn limit(bytes: Option<u64>) {
    setrlimit(Resource::As, Rlimit { current: bytes, maximum: getrlimit(Resource::As).maximum }).unwrap();
}

#[test]
#[ignore = "limits the process that it runs in: the test above starts one for it"]
fn in_a_process_without_memory() {
    let adapter: usize = std::env::var(ADAPTER).expect("started by the test above").parse().unwrap();
    let gpu = support::open_all(None).swap_remove(adapter);
    let uncaptured = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&uncaptured);
    gpu.device.on_uncaptured_error(Arc::new(move |error| log.lock().unwrap().push(error.to_string())));
    let kernels = Kernels::new(&gpu.device);
    let training = Training::new(&gpu, &kernels);
    let before = training.run(&gpu);
    let of = |channels| BatchNormLayerDescriptor {
        batch_norm: BatchNormDescriptor { channels, ..Default::default() },
        ..Default::default()
    };
    // Vectors of 4 MiB, a workspace of 96 MiB; and a layer with vectors of 128 MiB.
    let layer = BatchNormLayer::with_kernels(&kernels, &of(1 << 20)).unwrap();
    let wide = Shape::new(&[2, 1 << 20, 2]).unwrap();
    assert!(layer.batch_norm().plan(&wide).unwrap().workspace_size() > SPARE, "the workspace is large");
    let large = of(1 << 25);
    training.run(&gpu);
    let windows = Windows::new(&gpu, &kernels);
    drop(windows.bind().unwrap());
    gpu.wait();

    limit(Some(address_space() + SPARE));
    for _ in 0..2 {
        let refused = BatchNormLayer::with_kernels(&kernels, &large).map(drop);
        assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "a layer: {refused:?}");
        let refused = layer.plan(&wide).map(drop);
        assert_eq!(refused, Err(Error::OutOfMemory { object: "a buffer of a layer" }));
        assert_eq!(training.run(&gpu), before, "what was bound goes on");
    }
    let small = Training::new(&gpu, &kernels);
    assert_eq!(small.run(&gpu), before, "what needs little is made");
    let fillers = fill(&gpu);
    let refused = windows.bind().map(drop);
    assert_eq!(refused, Err(Error::OutOfMemory { object: "a parameter buffer" }), "beside {} fillers", fillers.len());
    assert_eq!(training.run(&gpu), before, "what was bound goes on");
    drop(fillers);

    limit(getrlimit(Resource::As).maximum);
    layer.plan(&wide).unwrap();
    drop(BatchNormLayer::with_kernels(&kernels, &large).unwrap());
    gpu.submit(|pass| windows.bind().unwrap().record(pass));
    assert_eq!(training.run(&gpu), before);
    let uncaptured = uncaptured.lock().unwrap();
    assert!(uncaptured.is_empty(), "{uncaptured:?}");
    println!("{gpu}: ran out and went on");
}
