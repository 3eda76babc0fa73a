//! The crate in the hands of a careless user: every bad input is a typed error before anything is recorded, and nothing
//! reaches wgpu's uncaptured-error handler.
//!
//! Runs on wgpu's noop backend: full validation, WebGPU's guaranteed limits, no GPU needed.

#[path = "careless/aliasing.rs"]
mod aliasing;
#[path = "careless/failures_of_others.rs"]
mod failures_of_others;
#[path = "careless/faults.rs"]
mod faults;
#[path = "careless/fuzz.rs"]
pub(crate) mod fuzz;
#[path = "careless/layer.rs"]
mod layer;
#[path = "careless/machines.rs"]
mod machines;
#[path = "careless/send_and_sync.rs"]
mod send_and_sync;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use wgpu_batch_norm::{
    AccumulateBuffers, Activation, ActivationSource, ActivationState, AdapterClass, BackwardBuffers, BatchNorm,
    BatchNormDescriptor, ConcludeBuffers, Convention, ElementType, Error, Family, FoldBuffers, FrozenBackwardBuffers,
    Gradient, InferenceBuffers, Kernels, KernelsDescriptor, Layout, Momentum, OutputBackwardBuffers, PartBuffers, Plan,
    PopulationBuffers, Renormalization, RunningStatistics, SegmentRunning, SequenceAxes, Shape, Strategies, Strategy,
    TrainingBuffers, ValidBuffers, ValidSource,
};

/// A noop device, with the limits that WebGPU guarantees unless they are said, and everything that reached its error handler.
struct Noop {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    uncaptured: Arc<Mutex<Vec<String>>>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the noop backend answers at once"),
    }
}

/// An instance of the noop backend, and its adapter.
fn instance(noop: wgpu::NoopBackendOptions) -> (wgpu::Instance, wgpu::Adapter) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop, ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = now(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
    (instance, adapter)
}

impl Noop {
    fn new() -> Self {
        let (_, adapter) = instance(wgpu::NoopBackendOptions::enabled());
        Self::of(adapter)
    }

    /// And how many pipelines there are on it.
    fn counting_pipelines() -> (Self, impl Fn() -> usize) {
        let (instance, adapter) = instance(wgpu::NoopBackendOptions::enabled());
        (Self::of(adapter), move || instance.generate_report().unwrap().hub.compute_pipelines.num_allocated)
    }

    /// Another device of the same adapter.
    fn twin(&self) -> Self {
        Self::of(self.adapter.clone())
    }

    fn of(adapter: wgpu::Adapter) -> Self {
        let noop = Self::open(adapter, &wgpu::DeviceDescriptor::default());
        assert_eq!(noop.device.limits(), wgpu::Limits::default());
        noop
    }

    fn open(adapter: wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Self {
        let (device, queue) = now(adapter.request_device(descriptor)).unwrap();
        let uncaptured = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&uncaptured);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| log.lock().unwrap().push(error.to_string())));
        Self { adapter, device, queue, uncaptured }
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn storage(&self, size: u64) -> wgpu::Buffer {
        self.buffer(size, wgpu::BufferUsages::STORAGE)
    }

    /// Records into a pass, ends it and submits.
    fn run(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        self.queue.submit([encoder.finish()]);
    }

    fn assert_quiet(&self) {
        let uncaptured = self.uncaptured.lock().unwrap();
        assert!(uncaptured.is_empty(), "{uncaptured:?}");
    }
}

/// Buffers for every role of a (8, 64, 6) batch norm, each with the right size.
struct Roles {
    /// x, y, dy, dx, z, dz.
    tensors: [wgpu::Buffer; 6],
    /// gamma, beta, running mean and variance, dgamma, dbeta.
    vectors: Vec<wgpu::Buffer>,
    mask: wgpu::Buffer,
    health: wgpu::Buffer,
    saved: wgpu::Buffer,
    workspace: wgpu::Buffer,
    counter: wgpu::Buffer,
    valid: wgpu::Buffer,
    /// R and D, then their limits.
    renormalization: [wgpu::Buffer; 2],
}

impl Roles {
    fn new(noop: &Noop, plan: &Plan) -> Self {
        Self {
            tensors: [(); 6].map(|()| noop.storage(plan.tensor_size())),
            vectors: [plan.vector_size(), plan.running_size(), plan.vector_size()]
                .map(|size| [noop.storage(size), noop.storage(size)])
                .into_iter()
                .flatten()
                .collect(),
            mask: noop.storage(plan.mask_size()),
            health: noop.storage(plan.health_size()),
            saved: noop.storage(plan.saved_size()),
            workspace: noop.storage(plan.workspace_size()),
            counter: noop.storage(4),
            valid: noop.storage(plan.valid_size()),
            renormalization: [plan.renormalization_size(), 8].map(|size| noop.storage(size)),
        }
    }

    fn renormalization(&self) -> Renormalization<'_> {
        let [saved, limits] = &self.renormalization;
        Renormalization { limits: limits.slice(..), saved: saved.slice(..) }
    }

    fn training(&self) -> TrainingBuffers<'_> {
        TrainingBuffers {
            gamma: Some(self.vectors[0].slice(..)),
            beta: Some(self.vectors[1].slice(..)),
            running: Some(RunningStatistics {
                mean: self.vectors[2].slice(..),
                variance: self.vectors[3].slice(..),
                batches_tracked: Some(self.counter.slice(..)),
            }),
            saved: Some(self.saved.slice(..)),
            ..TrainingBuffers::new(self.tensors[0].slice(..), self.tensors[1].slice(..), self.workspace.slice(..))
        }
    }

    fn inference(&self) -> InferenceBuffers<'_> {
        InferenceBuffers {
            gamma: Some(self.vectors[0].slice(..)),
            beta: Some(self.vectors[1].slice(..)),
            ..InferenceBuffers::new(
                self.tensors[0].slice(..),
                self.tensors[1].slice(..),
                self.vectors[2].slice(..),
                self.vectors[3].slice(..),
            )
        }
    }

    fn backward(&self) -> BackwardBuffers<'_> {
        BackwardBuffers {
            gamma: Some(self.vectors[0].slice(..)),
            beta: Some(self.vectors[1].slice(..)),
            saved: Some(self.saved.slice(..)),
            input_gradient: Some(Gradient::Overwrite(self.tensors[3].slice(..))),
            gamma_gradient: Some(Gradient::Accumulate(self.vectors[4].slice(..))),
            beta_gradient: Some(Gradient::Overwrite(self.vectors[5].slice(..))),
            ..BackwardBuffers::new(self.tensors[0].slice(..), self.tensors[2].slice(..), self.workspace.slice(..))
        }
    }

    fn frozen(&self) -> FrozenBackwardBuffers<'_> {
        FrozenBackwardBuffers {
            input: Some(self.tensors[0].slice(..)),
            gamma: Some(self.vectors[0].slice(..)),
            beta: Some(self.vectors[1].slice(..)),
            input_gradient: Some(Gradient::Overwrite(self.tensors[3].slice(..))),
            gamma_gradient: Some(Gradient::Overwrite(self.vectors[4].slice(..))),
            beta_gradient: Some(Gradient::Overwrite(self.vectors[5].slice(..))),
            ..FrozenBackwardBuffers::new(
                self.tensors[2].slice(..),
                self.vectors[2].slice(..),
                self.vectors[3].slice(..),
                self.workspace.slice(..),
            )
        }
    }
}

const SHAPE: [usize; 3] = [8, 64, 6];

fn set_up(noop: &Noop) -> (BatchNorm, Plan, Roles) {
    set_up_with(noop, Activation::Identity)
}

fn set_up_with(noop: &Noop, activation: Activation) -> (BatchNorm, Plan, Roles) {
    let descriptor = BatchNormDescriptor { channels: 64, activation, ..Default::default() };
    let bn = BatchNorm::new(&noop.device, &descriptor).unwrap();
    let plan = bn.plan(&Shape::new(&SHAPE).unwrap()).unwrap();
    let roles = Roles::new(noop, &plan);
    (bn, plan, roles)
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
];

const SMOOTH: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

#[test]
fn everything_runs_within_the_limits_that_webgpu_guarantees() {
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Cpu] {
        let noop = Noop::new();
        let kernels =
            Kernels::with_descriptor(&noop.device, &KernelsDescriptor { class: Some(class), ..Default::default() });
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            for shape in [
                &[2, 3][..],
                &[1024, 512],
                &[5, 3, 7],
                &[4, 16, 56, 56],
                &[3, 17, 9, 11],
                &[2, 70_000, 2],
                &[2, 3, 4, 5, 6],
            ] {
                let channels = shape[layout.channel_axis(shape.len())] as u32;
                let descriptor = BatchNormDescriptor { channels, layout, ..Default::default() };
                let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
                let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
                let roles = Roles::new(&noop, &plan);
                let training = bn.bind_training(&plan, &roles.training()).unwrap();
                let inference = bn.bind_inference(&plan, &roles.inference()).unwrap();
                let backward = bn.bind_backward(&plan, &roles.backward()).unwrap();
                let recomputing =
                    bn.bind_backward(&plan, &BackwardBuffers { saved: None, ..roles.backward() }).unwrap();
                let frozen = bn.bind_backward_frozen(&plan, &roles.frozen()).unwrap();
                noop.run(|pass| {
                    training.record(pass);
                    training.record_without_running_update(pass);
                    inference.record(pass);
                    backward.record(pass);
                    recomputing.record(pass);
                    frozen.record(pass);
                });
            }
        }
        noop.assert_quiet();
    }
}

#[test]
fn descriptors_and_shapes_are_checked() {
    let noop = Noop::new();
    let new = |descriptor| BatchNorm::new(&noop.device, &descriptor).map(drop);
    assert_eq!(new(BatchNormDescriptor::default()), Err(Error::NoChannels));
    let with = |convention| BatchNormDescriptor { channels: 3, convention, ..Default::default() };
    for epsilon in [-1.0, f64::NAN, f64::INFINITY] {
        let result = new(with(Convention { epsilon, ..Convention::pytorch() }));
        assert!(matches!(result, Err(Error::InvalidEpsilon { .. })), "{epsilon}");
    }
    let momentum = Momentum::WeightOfOld(f64::INFINITY);
    assert!(matches!(new(with(Convention { momentum, ..Convention::pytorch() })), Err(Error::InvalidMomentum { .. })));

    let bn = BatchNorm::new(&noop.device, &with(Convention::pytorch())).unwrap();
    let plan = |shape: &[usize]| bn.plan(&Shape::new(shape)?).map(drop);
    assert_eq!(plan(&[4]), Err(Error::UnsupportedRank { rank: 1 }));
    let expected = Error::ChannelMismatch { expected: 3, actual: 4, layout: Layout::ChannelsFirst };
    assert_eq!(plan(&[3, 4]), Err(expected));
    assert!(matches!(plan(&[usize::MAX, 3, 2]), Err(Error::ShapeTooLarge { .. })));
    assert_eq!(plan(&[1 << 30, 3]), Ok(()));
    assert!(matches!(plan(&[1 << 50, 3]), Err(Error::TooManyWindows { .. })));
    // The statistics of all channels are one binding.
    let wide = BatchNormDescriptor { channels: 1 << 23, ..Default::default() };
    let refused = BatchNorm::new(&noop.device, &wide).unwrap().plan(&Shape::new(&[2, 1 << 23]).unwrap());
    assert!(matches!(refused, Err(Error::LimitExceeded { limit: "max_storage_buffer_binding_size", .. })));
    noop.assert_quiet();
}

#[test]
fn every_slice_is_checked_for_size_usage_and_offset() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    type Put<'a> = fn(&mut TrainingBuffers<'a>, wgpu::BufferSlice<'a>);
    let places: [(&str, u64, Put<'_>); 15] = [
        ("input", plan.tensor_size(), |b, s| b.input = s),
        ("output", plan.tensor_size(), |b, s| b.output = s),
        ("residual", plan.tensor_size(), |b, s| b.residual = Some(s)),
        ("activation_mask", plan.mask_size(), |b, s| b.activation_mask = Some(s)),
        ("health", plan.health_size(), |b, s| b.health = Some(s)),
        ("gamma", plan.vector_size(), |b, s| b.gamma = Some(s)),
        ("beta", plan.vector_size(), |b, s| b.beta = Some(s)),
        ("running.mean", plan.vector_size(), |b, s| b.running.as_mut().unwrap().mean = s),
        ("running.variance", plan.vector_size(), |b, s| b.running.as_mut().unwrap().variance = s),
        ("running.batches_tracked", 4, |b, s| b.running.as_mut().unwrap().batches_tracked = Some(s)),
        ("saved", plan.saved_size(), |b, s| b.saved = Some(s)),
        ("valid", plan.valid_size(), |b, s| b.valid = Some(s)),
        ("renormalization.saved", plan.renormalization_size(), |b, s| b.renormalization.as_mut().unwrap().saved = s),
        ("renormalization.limits", 8, |b, s| b.renormalization.as_mut().unwrap().limits = s),
        ("workspace", plan.workspace_size(), |b, s| b.workspace = s),
    ];
    let larger = places.map(|(_, size, _)| noop.storage(size + 512));
    let unusable = places.map(|(_, size, _)| noop.buffer(size, wgpu::BufferUsages::COPY_DST));
    for (((name, size, put), large), copy_only) in places.into_iter().zip(&larger).zip(&unusable) {
        let with = |slice| {
            let mut buffers = TrainingBuffers { renormalization: Some(roles.renormalization()), ..roles.training() };
            put(&mut buffers, slice);
            bn.bind_training(&plan, &buffers).map(drop)
        };
        let short = with(large.slice(..size - 4));
        let told = short.as_ref().unwrap_err().to_string();
        let constant = ["running.batches_tracked", "renormalization.limits"].contains(&name);
        assert!(constant || told.contains("_size`"), "the size to take is told: {told}");
        let long = with(large.slice(..size + 4));
        if name == "workspace" {
            let (required, actual) = (size, size - 4);
            assert_eq!(short, Err(Error::TooSmall { binding: name, required, actual }));
            assert_eq!(long, Ok(()));
        } else {
            assert_eq!(short, Err(Error::WrongSize { binding: name, expected: size, actual: size - 4 }));
            assert_eq!(long, Err(Error::WrongSize { binding: name, expected: size, actual: size + 4 }));
        }
        assert_eq!(with(copy_only.slice(..)), Err(Error::MissingStorageUsage { binding: name }));
        let misaligned = Error::MisalignedOffset { binding: name, offset: 4, alignment: 256 };
        assert_eq!(with(large.slice(4..size + 4)), Err(misaligned));
        assert_eq!(with(large.slice(256..size + 256)), Ok(()), "{name} at an aligned offset");
    }
    noop.assert_quiet();
}

#[test]
fn plans_and_buffers_of_others_are_errors() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    let different = BatchNormDescriptor { channels: 64, convention: Convention::keras(), ..Default::default() };
    let keras = BatchNorm::new(&noop.device, &different).unwrap();
    assert_eq!(keras.bind_inference(&plan, &roles.inference()).unwrap_err(), Error::PlanMismatch);
    // A plan for another kind of device, and buffers of another device of the same kind.
    let descriptor = KernelsDescriptor { class: Some(AdapterClass::Discrete), ..Default::default() };
    let discrete = Kernels::with_descriptor(&noop.device, &descriptor);
    let discrete = BatchNorm::with_kernels(&discrete, bn.descriptor()).unwrap();
    let other_plan = discrete.plan(&Shape::new(&SHAPE).unwrap()).unwrap();
    assert_eq!(bn.bind_inference(&other_plan, &roles.inference()).unwrap_err(), Error::PlanMismatch);
    let twin = noop.twin();
    let (_, _, twin_roles) = set_up(&twin);
    let error = bn.bind_inference(&plan, &twin_roles.inference()).unwrap_err();
    assert!(matches!(error, Error::Device { object: "a bind group", .. }), "{error}");
    roles.tensors[0].destroy();
    let error = bn.bind_training(&plan, &roles.training()).unwrap_err();
    assert!(matches!(error, Error::Device { object: "a bind group", .. }), "{error}");
    // The library is as good as before.
    let fresh = Roles::new(&noop, &plan);
    let step = bn.bind_training(&plan, &fresh.training()).unwrap();
    noop.run(|pass| step.record(pass));
    noop.assert_quiet();
    twin.assert_quiet();
}

#[test]
fn operations_name_what_they_lack() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    let nothing =
        BackwardBuffers { input_gradient: None, gamma_gradient: None, beta_gradient: None, ..roles.backward() };
    assert_eq!(bn.bind_backward(&plan, &nothing).unwrap_err(), Error::NoGradientRequested);

    let without_input = FrozenBackwardBuffers { input: None, ..roles.frozen() };
    assert_eq!(bn.bind_backward_frozen(&plan, &without_input).unwrap_err(), Error::MissingInput);
    let input_gradient_only = FrozenBackwardBuffers { gamma_gradient: None, ..without_input };
    let step = bn.bind_backward_frozen(&plan, &input_gradient_only).unwrap();
    noop.run(|pass| step.record(pass));

    let convention = Convention { momentum: Momentum::CumulativeAverage, ..Convention::pytorch() };
    let descriptor = BatchNormDescriptor { channels: 64, convention, ..Default::default() };
    let cumulative = BatchNorm::new(&noop.device, &descriptor).unwrap();
    let plan = cumulative.plan(&Shape::new(&SHAPE).unwrap()).unwrap();
    let mut buffers = roles.training();
    buffers.running.as_mut().unwrap().batches_tracked = None;
    assert_eq!(cumulative.bind_training(&plan, &buffers).unwrap_err(), Error::MissingBatchesTracked);

    let one = bn.plan(&Shape::new(&[1, 64]).unwrap()).unwrap();
    let roles = Roles::new(&noop, &one);
    assert_eq!(bn.bind_training(&one, &roles.training()).unwrap_err(), Error::OneSample);
    assert_eq!(bn.bind_backward(&one, &roles.backward()).unwrap_err(), Error::OneSample);
    assert!(bn.bind_inference(&one, &roles.inference()).is_ok());
    assert!(bn.bind_backward_frozen(&one, &roles.frozen()).is_ok());
    noop.assert_quiet();
}

#[test]
fn segments_padding_and_renormalization_name_what_they_lack() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up_with(&noop, Activation::Relu);
    let without = TrainingBuffers { running: None, renormalization: Some(roles.renormalization()), ..roles.training() };
    assert_eq!(bn.bind_training(&plan, &without).unwrap_err(), Error::MissingRunningStatistics);
    let masked = InferenceBuffers {
        valid: Some(roles.valid.slice(..)),
        activation_mask: Some(roles.mask.slice(..)),
        ..roles.inference()
    };
    assert_eq!(bn.bind_inference(&plan, &masked).unwrap_err(), Error::PaddedActivationMask);

    let lengths = noop.storage(32);
    let mark = |lengths, axes| {
        let source = ValidSource::Lengths { lengths, axes };
        bn.bind_valid(&plan, &ValidBuffers { source, valid: roles.valid.slice(..) }).map(drop)
    };
    let axes = SequenceAxes { sequence: 0, step: 2 };
    assert_eq!(mark(lengths.slice(..), axes), Ok(()));
    let wrong = Error::WrongSize { binding: "source.lengths", expected: 32, actual: 28 };
    assert_eq!(mark(lengths.slice(..28), axes), Err(wrong));
    for (sequence, step) in [(1, 2), (0, 1), (0, 3), (2, 2)] {
        let refused = mark(lengths.slice(..), SequenceAxes { sequence, step });
        assert!(matches!(refused, Err(Error::InvalidAxis { rank: 3, .. })), "{sequence} {step}: {refused:?}");
    }
    for first_step in [0, 7, u32::MAX] {
        let source = ValidSource::LengthsFrom { lengths: lengths.slice(..), axes, first_step };
        let valid = roles.valid.slice(..);
        assert!(bn.bind_valid(&plan, &ValidBuffers { source, valid }).is_ok(), "{first_step}");
    }
    let source = ValidSource::LengthsFrom { lengths: lengths.slice(..28), axes, first_step: 1 };
    let short = bn.bind_valid(&plan, &ValidBuffers { source, valid: roles.valid.slice(..) }).map(drop);
    assert_eq!(short, Err(Error::WrongSize { binding: "source.lengths", expected: 32, actual: 28 }));
    let flags = noop.storage(plan.positions_size());
    let mark = |source, valid| bn.bind_valid(&plan, &ValidBuffers { source, valid }).map(drop);
    let valid = roles.valid.slice(..);
    assert_eq!(mark(ValidSource::Flags(flags.slice(..)), valid), Ok(()));
    assert!(matches!(mark(ValidSource::Flags(flags.slice(..4)), valid), Err(Error::WrongSize { .. })));
    let short = roles.valid.slice(..plan.valid_size() - 4);
    assert!(matches!(mark(ValidSource::Flags(flags.slice(..)), short), Err(Error::WrongSize { binding: "valid", .. })));

    let of_bf16 = BatchNormDescriptor { channels: 3, element: ElementType::Bf16, ..Default::default() };
    let of_bf16 = BatchNorm::new(&noop.device, &of_bf16).unwrap();
    let odd = Shape::new(&[4, 3, 5]).unwrap().with_sub_batches(2).unwrap();
    assert_eq!(of_bf16.plan(&odd), Err(Error::SharedWords { elements: 30, inner: 5 }));
    let along_width = Shape::new(&[4, 64, 5, 7]).unwrap().with_segments_along(3).unwrap();
    assert_eq!(bn.plan(&along_width), Err(Error::SegmentsNotServed { axis: 3 }));

    let folding = FoldBuffers {
        weight: roles.tensors[0].slice(..),
        bias: None,
        gamma: None,
        beta: None,
        running_mean: roles.vectors[2].slice(..),
        running_variance: roles.vectors[3].slice(..),
        folded_weight: roles.tensors[1].slice(..),
        folded_bias: roles.vectors[4].slice(..),
    };
    let convention = Convention { segment_running: SegmentRunning::Separate, ..Convention::pytorch() };
    let separate = BatchNormDescriptor { channels: 64, convention, ..Default::default() };
    let separate = BatchNorm::new(&noop.device, &separate).unwrap();
    let in_parts = separate.plan(&Shape::new(&SHAPE).unwrap().with_sub_batches(2).unwrap()).unwrap();
    let of_segments = Roles::new(&noop, &in_parts);
    let refused = FoldBuffers {
        running_mean: of_segments.vectors[2].slice(..),
        running_variance: of_segments.vectors[3].slice(..),
        ..folding
    };
    assert_eq!(separate.bind_fold(&in_parts, &refused).unwrap_err(), Error::SegmentedFold);

    // Flags take more bytes than a tensor of 16 bits with one channel.
    let long = BatchNormDescriptor { channels: 1, element: ElementType::F16, ..Default::default() };
    let long = BatchNorm::new(&noop.device, &long).unwrap();
    let plan_of_long = long.plan(&Shape::flat(1 << 26, 1, 1)).unwrap();
    let (flags, valid) = (noop.storage(plan_of_long.positions_size()), noop.storage(plan_of_long.valid_size()));
    let source = ValidSource::Flags(flags.slice(..));
    let refused = long.bind_valid(&plan_of_long, &ValidBuffers { source, valid: valid.slice(..) });
    assert!(matches!(refused, Err(Error::LimitExceeded { limit: "max_storage_buffer_binding_size", .. })));

    // An empty batch of astronomic rows is no reason to panic.
    let astronomic = bn.plan(&Shape::flat(0, 64, usize::MAX)).unwrap();
    let moments = noop.storage(astronomic.moments_size());
    let population = PopulationBuffers {
        moments: moments.slice(..),
        running_mean: roles.vectors[2].slice(..),
        running_variance: roles.vectors[3].slice(..),
    };
    assert!(bn.bind_population(&astronomic, &population).is_ok());

    // More segments than one invocation may update running statistics from.
    let few = BatchNorm::new(&noop.device, &BatchNormDescriptor { channels: 4, ..Default::default() }).unwrap();
    let many = few.plan(&Shape::new(&[60_001, 4, 2]).unwrap().with_segments_along(0).unwrap()).unwrap();
    let buffers = Roles::new(&noop, &many);
    let refused = Error::TooManySegments { segments: 60_001, most: 60_000 };
    assert_eq!(few.bind_training(&many, &buffers.training()).unwrap_err(), refused);
    assert!(few.bind_training(&many, &TrainingBuffers { running: None, ..buffers.training() }).is_ok());
    noop.assert_quiet();
}

/// Segments of every kind, padding and renormalization with everything that can be fused.
#[test]
fn every_structure_binds_within_the_limits_that_webgpu_guarantees() {
    let noop = Noop::new();
    let kernels = Kernels::new(&noop.device);
    let whole = || Shape::new(&[8, 12, 6]).unwrap();
    let shapes = [
        whole(),
        whole().with_sub_batches(4).unwrap(),
        whole().with_segments_along(0).unwrap(),
        whole().with_segments_along(2).unwrap(),
        Shape::new(&[6, 5, 7]).unwrap().with_sub_batches(2).unwrap(),
    ];
    let running = [SegmentRunning::InTurn, SegmentRunning::Separate];
    for (shape, segment_running) in shapes.iter().flat_map(|shape| running.map(|running| (shape, running))) {
        for (element, activation) in [(ElementType::F32, Activation::Relu), (ElementType::F16, Activation::Gelu)] {
            let convention = Convention { segment_running, ..Convention::pytorch() };
            let channels = shape.dimensions()[1] as u32;
            let descriptor = BatchNormDescriptor { channels, convention, element, activation, ..Default::default() };
            let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
            let plan = match bn.plan(shape) {
                Err(Error::SharedWords { .. }) => continue,
                plan => plan.unwrap(),
            };
            let roles = Roles::new(&noop, &plan);
            let name = format!("{shape:?} {segment_running:?} {element} {activation}");
            bind_structures(&noop, &bn, &plan, &roles, &name);
        }
    }
    noop.assert_quiet();
}

fn bind_structures(noop: &Noop, bn: &BatchNorm, plan: &Plan, roles: &Roles, name: &str) {
    let flags = noop.storage(plan.positions_size());
    let source = ValidSource::Flags(flags.slice(..));
    let marking = bn.bind_valid(plan, &ValidBuffers { source, valid: roles.valid.slice(..) }).unwrap();
    noop.run(|pass| marking.record(pass));
    let residual = Some(roles.tensors[4].slice(..));
    let piecewise = bn.descriptor().activation.is_piecewise_linear();
    for (valid, renormalizes) in [(false, false), (true, false), (false, true), (true, true)] {
        let valid = valid.then(|| roles.valid.slice(..));
        let renormalization = renormalizes.then(|| roles.renormalization());
        let mask = piecewise.then(|| roles.mask.slice(..));
        let inference_mask = mask.filter(|_| valid.is_none());
        for residual in [None, residual] {
            let training =
                TrainingBuffers { residual, activation_mask: mask, valid, renormalization, ..roles.training() };
            let training = bn.bind_training(plan, &training).unwrap_or_else(|error| panic!("{name}: {error}"));
            let inference = InferenceBuffers { residual, activation_mask: inference_mask, valid, ..roles.inference() };
            let inference = bn.bind_inference(plan, &inference).unwrap_or_else(|error| panic!("{name}: {error}"));
            let activation = if residual.is_none() && piecewise {
                ActivationState::Mask(roles.mask.slice(..))
            } else {
                ActivationState::Recompute { residual }
            };
            let residual_gradient = residual.map(|_| Gradient::Accumulate(roles.tensors[5].slice(..)));
            let renormalization = renormalization.map(|saved| saved.saved);
            for saved in [None, Some(roles.saved.slice(..))] {
                let buffers = BackwardBuffers {
                    activation,
                    residual_gradient,
                    saved,
                    valid,
                    renormalization,
                    ..roles.backward()
                };
                let backward = bn.bind_backward(plan, &buffers).unwrap_or_else(|error| panic!("{name}: {error}"));
                noop.run(|pass| backward.record(pass));
            }
            let buffers = FrozenBackwardBuffers { activation, residual_gradient, valid, ..roles.frozen() };
            let frozen = bn.bind_backward_frozen(plan, &buffers).unwrap_or_else(|error| panic!("{name}: {error}"));
            noop.run(|pass| {
                training.record(pass);
                training.record_without_running_update(pass);
                inference.record(pass);
                frozen.record(pass);
            });
        }
    }
}

#[test]
fn the_slices_of_backward_are_checked_for_size() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up_with(&noop, Activation::Relu);
    type Put<'a> = fn(&mut BackwardBuffers<'a>, wgpu::BufferSlice<'a>);
    type PutFrozen<'a> = fn(&mut FrozenBackwardBuffers<'a>, wgpu::BufferSlice<'a>);
    let (tensor, vector) = (plan.tensor_size(), plan.vector_size());
    let places: [(&str, u64, Put<'_>, PutFrozen<'_>); 10] = [
        ("input", tensor, |b, s| b.input = s, |b, s| b.input = Some(s)),
        ("output_gradient", tensor, |b, s| b.output_gradient = s, |b, s| b.output_gradient = s),
        ("gamma", vector, |b, s| b.gamma = Some(s), |b, s| b.gamma = Some(s)),
        ("beta", vector, |b, s| b.beta = Some(s), |b, s| b.beta = Some(s)),
        (
            "activation.residual",
            tensor,
            |b, s| b.activation = ActivationState::Recompute { residual: Some(s) },
            |b, s| b.activation = ActivationState::Recompute { residual: Some(s) },
        ),
        (
            "activation.output",
            tensor,
            |b, s| b.activation = ActivationState::Output(s),
            |b, s| b.activation = ActivationState::Output(s),
        ),
        (
            "activation.mask",
            plan.mask_size(),
            |b, s| b.activation = ActivationState::Mask(s),
            |b, s| b.activation = ActivationState::Mask(s),
        ),
        (
            "residual_gradient",
            tensor,
            |b, s| b.residual_gradient = Some(Gradient::Overwrite(s)),
            |b, s| b.residual_gradient = Some(Gradient::Overwrite(s)),
        ),
        (
            "gamma_gradient",
            vector,
            |b, s| b.gamma_gradient = Some(Gradient::Overwrite(s)),
            |b, s| b.gamma_gradient = Some(Gradient::Overwrite(s)),
        ),
        (
            "beta_gradient",
            vector,
            |b, s| b.beta_gradient = Some(Gradient::Accumulate(s)),
            |b, s| b.beta_gradient = Some(Gradient::Accumulate(s)),
        ),
    ];
    let large = noop.storage(tensor + 4);
    for (name, size, put, put_frozen) in places {
        for actual in [size - 4, size, size + 4] {
            let expected =
                if actual == size { Ok(()) } else { Err(Error::WrongSize { binding: name, expected: size, actual }) };
            let state = ActivationState::Mask(roles.mask.slice(..));
            let mut backward = BackwardBuffers { activation: state, ..roles.backward() };
            put(&mut backward, large.slice(..actual));
            let bound = bn.bind_backward(&plan, &backward).map(drop);
            let told = bound.as_ref().map_err(ToString::to_string);
            assert!(told.is_ok() || told.is_err_and(|told| told.contains("_size`")), "{name}: {bound:?}");
            assert_eq!(bound, expected);
            let mut frozen = FrozenBackwardBuffers { activation: state, ..roles.frozen() };
            put_frozen(&mut frozen, large.slice(..actual));
            assert_eq!(bn.bind_backward_frozen(&plan, &frozen).map(drop), expected, "frozen");
        }
    }
    for (name, expected) in [("residual", tensor), ("activation_mask", plan.mask_size())] {
        for actual in [expected - 4, expected + 4] {
            let slice = Some(large.slice(..actual));
            let inference = roles.inference();
            let inference = match name {
                "residual" => InferenceBuffers { residual: slice, ..inference },
                _ => InferenceBuffers { activation_mask: slice, ..inference },
            };
            let error = bn.bind_inference(&plan, &inference).unwrap_err();
            assert_eq!(error, Error::WrongSize { binding: name, expected, actual });
        }
    }
    noop.assert_quiet();
}

#[test]
fn tensors_of_16_bits_are_rounded_up_to_whole_words() {
    let noop = Noop::new();
    for element in [ElementType::F16, ElementType::Bf16] {
        for (shape, bytes) in [([3, 5, 7], 212), ([1, 1, 2], 4), ([1, 1, 3], 8), ([2, 5, 3], 60), ([2, 3, 3], 36)] {
            let channels = shape[1] as u32;
            let descriptor = BatchNormDescriptor { channels, element, ..Default::default() };
            let bn = BatchNorm::new(&noop.device, &descriptor).unwrap();
            let plan = bn.plan(&Shape::new(&shape).unwrap()).unwrap();
            assert_eq!(plan.tensor_size(), bytes, "{element} {shape:?}");
            assert_eq!(plan.vector_size(), 4 * u64::from(channels), "vectors stay f32");
            let roles = Roles::new(&noop, &plan);
            let residual = Some(roles.tensors[4].slice(..));
            let step = bn.bind_training(&plan, &TrainingBuffers { residual, ..roles.training() }).unwrap();
            let residual_gradient = Some(Gradient::Accumulate(roles.tensors[5].slice(..)));
            let buffers = BackwardBuffers { residual_gradient, ..roles.backward() };
            let backward = bn.bind_backward(&plan, &buffers).unwrap();
            noop.run(|pass| {
                step.record(pass);
                backward.record(pass);
            });
            // As long as the same tensor in f32.
            let large = noop.storage(bytes * 2);
            let wrong = |binding| Error::WrongSize { binding, expected: bytes, actual: bytes * 2 };
            let buffers = TrainingBuffers { input: large.slice(..), ..roles.training() };
            assert_eq!(bn.bind_training(&plan, &buffers).unwrap_err(), wrong("input"));
            let buffers = TrainingBuffers { residual: Some(large.slice(..)), ..roles.training() };
            assert_eq!(bn.bind_training(&plan, &buffers).unwrap_err(), wrong("residual"));
            let input_gradient = Some(Gradient::Overwrite(large.slice(..)));
            let buffers = BackwardBuffers { input_gradient, ..roles.backward() };
            assert_eq!(bn.bind_backward(&plan, &buffers).unwrap_err(), wrong("input_gradient"));
        }
    }
    noop.assert_quiet();
}

#[test]
fn activations_name_what_they_lack() {
    let noop = Noop::new();
    for slope in [-0.1, f64::NAN, f64::INFINITY, 1e300] {
        let activation = Activation::LeakyRelu { slope };
        let descriptor = BatchNormDescriptor { channels: 3, activation, ..Default::default() };
        let result = BatchNorm::new(&noop.device, &descriptor).map(drop);
        assert!(matches!(result, Err(Error::InvalidSlope { .. })), "{slope}");
    }
    for activation in SMOOTH {
        let (bn, plan, roles) = set_up_with(&noop, activation);
        let useless = Error::UselessActivationMask { activation };
        let mask = Some(roles.mask.slice(..));
        let buffers = TrainingBuffers { activation_mask: mask, ..roles.training() };
        assert_eq!(bn.bind_training(&plan, &buffers).unwrap_err(), useless);
        let buffers = InferenceBuffers { activation_mask: mask, ..roles.inference() };
        assert_eq!(bn.bind_inference(&plan, &buffers).unwrap_err(), useless);
        for (state, from) in [
            (ActivationState::Output(roles.tensors[1].slice(..)), ActivationSource::Output),
            (ActivationState::Mask(roles.mask.slice(..)), ActivationSource::Mask),
        ] {
            let expected = Error::ActivationSourceNotServed { activation, from };
            let buffers = BackwardBuffers { activation: state, ..roles.backward() };
            assert_eq!(bn.bind_backward(&plan, &buffers).unwrap_err(), expected);
            let buffers = FrozenBackwardBuffers { activation: state, ..roles.frozen() };
            assert_eq!(bn.bind_backward_frozen(&plan, &buffers).unwrap_err(), expected);
        }
    }
    for activation in ACTIVATIONS {
        let (bn, plan, roles) = set_up_with(&noop, activation);
        let identity = activation == Activation::Identity;
        // Without the residual that forward added, the derivative would be taken at the wrong place.
        let residual_gradient = Some(Gradient::Overwrite(roles.tensors[5].slice(..)));
        let expected = if identity { Ok(()) } else { Err(Error::MissingResidual) };
        let backward = BackwardBuffers { residual_gradient, ..roles.backward() };
        assert_eq!(bn.bind_backward(&plan, &backward).map(drop), expected, "{activation}");
        let frozen = FrozenBackwardBuffers { residual_gradient, ..roles.frozen() };
        assert_eq!(bn.bind_backward_frozen(&plan, &frozen).map(drop), expected, "{activation}");
        let with_residual = ActivationState::Recompute { residual: Some(roles.tensors[4].slice(..)) };
        let backward = BackwardBuffers { activation: with_residual, ..backward };
        assert_eq!(bn.bind_backward(&plan, &backward).map(drop), Ok(()), "{activation}");

        let input_gradient_only = FrozenBackwardBuffers { input: None, gamma_gradient: None, ..roles.frozen() };
        let expected = if identity { Ok(()) } else { Err(Error::MissingInput) };
        assert_eq!(bn.bind_backward_frozen(&plan, &input_gradient_only).map(drop), expected, "{activation}");
        if activation.is_piecewise_linear() {
            for state in
                [ActivationState::Output(roles.tensors[1].slice(..)), ActivationState::Mask(roles.mask.slice(..))]
            {
                let buffers = FrozenBackwardBuffers { activation: state, ..input_gradient_only };
                assert!(bn.bind_backward_frozen(&plan, &buffers).is_ok(), "{activation}: the input has no use");
            }
        }
    }
    noop.assert_quiet();
}

#[test]
fn results_may_replace_exactly_what_they_are_made_of() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up_with(&noop, Activation::Relu);
    let size = plan.tensor_size();
    let pool = noop.storage(4 * size);
    let at = |offset: u64| pool.slice(offset..offset + size);
    let overlap = |first, second| Err(Error::OverlappingBuffers { first, second });
    let residual = Some(roles.tensors[4].slice(..));

    let training = |buffers| bn.bind_training(&plan, &buffers).map(|step| noop.run(|pass| step.record(pass)));
    let inference = |buffers| bn.bind_inference(&plan, &buffers).map(|step| noop.run(|pass| step.record(pass)));
    let forward = |input, output, residual| {
        let result = training(TrainingBuffers { input, output, residual, ..roles.training() });
        assert_eq!(result, inference(InferenceBuffers { input, output, residual, ..roles.inference() }));
        result
    };
    for offset in [0, size] {
        assert_eq!(forward(at(offset), at(offset), None), Ok(()));
        assert_eq!(forward(at(offset), at(offset), residual), Ok(()));
    }
    assert_eq!(forward(at(0), at(size / 2), None), overlap("input", "output"));
    assert_eq!(forward(at(size / 2), at(0), None), overlap("input", "output"));
    assert_eq!(forward(at(0), at(size), Some(at(size))), overlap("output", "residual"));
    assert_eq!(forward(at(0), at(size), Some(at(size + size / 2))), overlap("output", "residual"));
    assert_eq!(forward(at(0), at(0), Some(at(0))), overlap("output", "residual"));
    assert_eq!(forward(at(0), at(size), Some(at(0))), Ok(()), "x may be added to its own normalisation");

    let state = ActivationState::Mask(roles.mask.slice(..));
    let backward = |dy, dx, dz: Option<Gradient<'_>>| {
        let buffers = BackwardBuffers {
            activation: state,
            output_gradient: dy,
            input_gradient: Some(dx),
            residual_gradient: dz,
            ..roles.backward()
        };
        let result = bn.bind_backward(&plan, &buffers).map(|step| noop.run(|pass| step.record(pass)));
        let buffers = FrozenBackwardBuffers {
            activation: state,
            output_gradient: dy,
            input_gradient: Some(dx),
            residual_gradient: dz,
            ..roles.frozen()
        };
        assert_eq!(result, bn.bind_backward_frozen(&plan, &buffers).map(|step| noop.run(|pass| step.record(pass))));
        result
    };
    let dz = Some(Gradient::Accumulate(roles.tensors[5].slice(..)));
    let overwrite = Gradient::Overwrite;
    assert_eq!(backward(at(0), overwrite(at(0)), None), Ok(()));
    assert_eq!(backward(at(0), overwrite(at(0)), dz), Ok(()));
    assert_eq!(backward(at(0), Gradient::Accumulate(at(0)), None), Err(Error::InPlaceAccumulation));
    assert_eq!(backward(at(0), Gradient::Accumulate(at(size)), None), Ok(()));
    assert_eq!(backward(at(0), overwrite(at(size / 2)), None), overlap("output_gradient", "input_gradient"));
    let over = |offset| Some(overwrite(at(offset)));
    assert_eq!(backward(at(0), overwrite(at(size)), over(0)), overlap("output_gradient", "residual_gradient"));
    assert_eq!(backward(at(0), overwrite(at(size)), over(size)), overlap("input_gradient", "residual_gradient"));
    assert_eq!(backward(at(0), overwrite(at(0)), over(0)), overlap("output_gradient", "residual_gradient"));
    // The input is read after the gradient is written.
    let buffers = BackwardBuffers { input: at(0), input_gradient: over(0), ..roles.backward() };
    assert_eq!(bn.bind_backward(&plan, &buffers).map(drop), overlap("input", "input_gradient"));
    noop.assert_quiet();
}

#[test]
fn pinned_strategies_say_where_they_do_not_serve() {
    let noop = Noop::new();
    let descriptor = BatchNormDescriptor { channels: 64, activation: Activation::Relu, ..Default::default() };
    let bn = BatchNorm::new(&noop.device, &descriptor).unwrap();
    for (strategy, shape) in [
        (Strategy::Resident(Family::Rows), [2, 64, 32]),
        (Strategy::ChannelLoop(Family::Rows), [2, 64, 32]),
        (Strategy::Resident(Family::Columns), [8, 64, 4]),
        (Strategy::ChannelLoop(Family::Columns), [8, 64, 4]),
        (Strategy::Resident(Family::Quads), [2, 64, 7]),
        (Strategy::ChannelLoop(Family::Quads), [2, 64, 7]),
    ] {
        let refused = Err(Error::StrategyNotServed { strategy });
        let pin = Strategies { training: Some(strategy), backward: Some(strategy), inference: None };
        let plan = bn.plan_with(&Shape::new(&shape).unwrap(), pin).unwrap();
        let roles = Roles::new(&noop, &plan);
        let residual = Some(roles.tensors[4].slice(..));
        let activation_mask = Some(roles.mask.slice(..));
        let training = |buffers| bn.bind_training(&plan, &buffers).map(drop);
        assert_eq!(training(roles.training()), Ok(()), "{strategy}");
        assert_eq!(training(TrainingBuffers { residual, ..roles.training() }), refused);
        assert_eq!(training(TrainingBuffers { activation_mask, ..roles.training() }), refused);
        let backward = |activation| {
            let buffers = BackwardBuffers { activation, ..roles.backward() };
            bn.bind_backward(&plan, &buffers).map(drop)
        };
        assert_eq!(backward(ActivationState::default()), Ok(()), "{strategy}");
        assert_eq!(backward(ActivationState::Recompute { residual }), refused);
        assert_eq!(backward(ActivationState::Output(roles.tensors[1].slice(..))), refused);
        assert_eq!(backward(ActivationState::Mask(roles.mask.slice(..))), refused);
        let (valid, renormalization) = (Some(roles.valid.slice(..)), Some(roles.renormalization()));
        assert_eq!(training(TrainingBuffers { valid, ..roles.training() }), refused);
        assert_eq!(training(TrainingBuffers { renormalization, ..roles.training() }), refused);
        let backward = BackwardBuffers { valid, ..roles.backward() };
        assert_eq!(bn.bind_backward(&plan, &backward).map(drop), refused);
        let renormalization = renormalization.map(|renormalization| renormalization.saved);
        let backward = BackwardBuffers { renormalization, ..roles.backward() };
        assert_eq!(bn.bind_backward(&plan, &backward).map(drop), refused);
        let frozen = FrozenBackwardBuffers { valid, ..roles.frozen() };
        assert_eq!(bn.bind_backward_frozen(&plan, &frozen).map(drop), refused);
    }

    // Columns cross from one segment to the next within a unit.
    let columns = Strategy::Split { reduction: Family::Columns, elementwise: Family::Columns };
    let in_parts = |channels: usize, inner: usize, pin| {
        let convention = Convention { segment_running: SegmentRunning::Separate, ..Convention::pytorch() };
        let descriptor = BatchNormDescriptor { channels: channels as u32, convention, ..Default::default() };
        let shape = Shape::new(&[6, channels, inner]).unwrap().with_sub_batches(2).unwrap();
        BatchNorm::new(&noop.device, &descriptor).unwrap().plan_with(&shape, pin).map(drop)
    };
    for pin in [
        Strategies { inference: Some(Family::Columns), ..Default::default() },
        Strategies { training: Some(columns), ..Default::default() },
        Strategies { backward: Some(columns), ..Default::default() },
    ] {
        assert_eq!(in_parts(64, 4, pin), Ok(()), "{pin:?}");
        assert_eq!(in_parts(5, 7, pin), Err(Error::StrategyNotServed { strategy: columns }), "{pin:?}");
    }

    // Quads are for rows that share units, of channels that come in fours; what a resident kernel holds of them is less.
    let quads = Strategy::Split { reduction: Family::Quads, elementwise: Family::Quads };
    let resident = Strategy::Resident(Family::Quads);
    for (strategy, channels, inner, served) in [
        (quads, 64, 4, false),
        (quads, 64, 5, true),
        (quads, 66, 5, false),
        (quads, 64, 8, false),
        (quads, 64, 8191, true),
        (quads, 64, 8193, false),
        (resident, 64, 31, true),
        (resident, 64, 33, false),
    ] {
        let descriptor = BatchNormDescriptor { channels, element: ElementType::F16, ..BatchNormDescriptor::default() };
        let shape = Shape::new(&[2, channels as usize, inner]).unwrap();
        let bn = BatchNorm::new(&noop.device, &descriptor).unwrap();
        for pin in [
            Strategies { training: Some(strategy), ..Default::default() },
            Strategies { backward: Some(strategy), ..Default::default() },
        ] {
            let expected = if served { Ok(()) } else { Err(Error::StrategyNotServed { strategy }) };
            assert_eq!(bn.plan_with(&shape, pin).map(drop), expected, "{channels} × {inner}: {pin:?}");
        }
    }

    // Neighbouring rows of 16-bit elements share words unless they are whole units.
    for (strategy, aligned, unaligned) in [
        (Strategy::Resident(Family::Rows), [2, 64, 16], [2, 64, 18]),
        (Strategy::ChannelLoop(Family::Rows), [2, 64, 16], [2, 64, 18]),
        (Strategy::Split { reduction: Family::Rows, elementwise: Family::Rows }, [8, 64, 16], [8, 64, 18]),
        (Strategy::Split { reduction: Family::Columns, elementwise: Family::Rows }, [8, 64, 4], [8, 64, 6]),
    ] {
        let training = Strategies { training: Some(strategy), ..Default::default() };
        let backward = Strategies { backward: Some(strategy), ..Default::default() };
        let inference = Strategies { inference: Some(Family::Rows), ..Default::default() };
        for element in ElementType::ALL {
            let bn = BatchNorm::new(&noop.device, &BatchNormDescriptor { element, ..descriptor.clone() }).unwrap();
            let plan = |shape: &[usize], pin| bn.plan_with(&Shape::new(shape).unwrap(), pin).map(drop);
            for pin in [training, backward, inference] {
                assert_eq!(plan(&aligned, pin), Ok(()), "{element} {pin:?}");
                if element == ElementType::F32 {
                    assert_eq!(plan(&unaligned, pin), Ok(()), "{pin:?}");
                }
            }
            if element != ElementType::F32 {
                assert_eq!(plan(&unaligned, training), Err(Error::StrategyNotServed { strategy }), "{element}");
                assert_eq!(plan(&unaligned, backward), Err(Error::StrategyNotServed { strategy }), "{element}");
                let result = plan(&unaligned, inference);
                assert!(matches!(result, Err(Error::StrategyNotServed { .. })), "{element}: {result:?}");
            }
        }
    }
    noop.assert_quiet();
}

#[test]
fn everything_that_can_be_fused_binds_within_the_limits_that_webgpu_guarantees() {
    let noop = Noop::new();
    assert_eq!(noop.device.limits().max_storage_buffers_per_shader_stage, 8);
    let kernels = Kernels::new(&noop.device);
    // Aligned rows, unaligned rows, and elements that fill no unit.
    for shape in [[8, 64, 16], [4, 12, 5], [3, 5, 7]] {
        for element in ElementType::ALL {
            for activation in ACTIVATIONS {
                let channels = shape[1] as u32;
                let descriptor = BatchNormDescriptor { channels, element, activation, ..Default::default() };
                let bn = BatchNorm::with_kernels(&kernels, &descriptor).unwrap();
                let plan = bn.plan(&Shape::new(&shape).unwrap()).unwrap();
                let roles = Roles::new(&noop, &plan);
                let name = format!("{element} {activation} {shape:?}");
                bind_forwards(&noop, &bn, &plan, &roles, &name);
                bind_backwards(&noop, &bn, &plan, &roles, &name);
            }
        }
    }
    noop.assert_quiet();
}

fn bind_forwards(noop: &Noop, bn: &BatchNorm, plan: &Plan, roles: &Roles, name: &str) {
    let masks = [None, Some(roles.mask.slice(..))];
    let masks = &masks[..if bn.descriptor().activation.is_piecewise_linear() { 2 } else { 1 }];
    for &activation_mask in masks {
        for residual in [None, Some(roles.tensors[4].slice(..))] {
            for over in [0, 1] {
                let output = roles.tensors[over].slice(..);
                let health = residual.is_some().then(|| roles.health.slice(..));
                let buffers = TrainingBuffers { output, residual, activation_mask, health, ..roles.training() };
                let training = bn.bind_training(plan, &buffers).unwrap_or_else(|error| panic!("{name}: {error}"));
                let buffers = InferenceBuffers { output, residual, activation_mask, ..roles.inference() };
                let inference = bn.bind_inference(plan, &buffers).unwrap_or_else(|error| panic!("{name}: {error}"));
                noop.run(|pass| {
                    training.record(pass);
                    inference.record(pass);
                });
            }
        }
    }
}

/// Every set of gradients, with every source of the activation's derivative.
fn bind_backwards(noop: &Noop, bn: &BatchNorm, plan: &Plan, roles: &Roles, name: &str) {
    let activation = bn.descriptor().activation;
    let states = [
        ActivationState::Recompute { residual: None },
        ActivationState::Recompute { residual: Some(roles.tensors[4].slice(..)) },
        ActivationState::Output(roles.tensors[1].slice(..)),
        ActivationState::Mask(roles.mask.slice(..)),
    ];
    let states = &states[..if activation.is_piecewise_linear() { 4 } else { 2 }];
    for (index, &state) in states.iter().enumerate() {
        for gradients in 1..16_u32 {
            let wanted = |bit: u32, slice| (gradients >> bit & 1 == 1).then_some(slice);
            if index == 0 && activation != Activation::Identity && gradients & 2 != 0 {
                continue;
            }
            for in_place in [false, true] {
                let dx = roles.tensors[if in_place { 2 } else { 3 }].slice(..);
                let input_gradient = wanted(0, dx).map(Gradient::Overwrite);
                let residual_gradient = wanted(1, roles.tensors[5].slice(..)).map(Gradient::Overwrite);
                let gamma_gradient = wanted(2, roles.vectors[4].slice(..)).map(Gradient::Accumulate);
                let beta_gradient = wanted(3, roles.vectors[5].slice(..)).map(Gradient::Overwrite);
                let name = format!("{name}, {state:?}, gradients {gradients:04b}, in place: {in_place}");
                let buffers = BackwardBuffers {
                    activation: state,
                    input_gradient,
                    residual_gradient,
                    gamma_gradient,
                    beta_gradient,
                    ..roles.backward()
                };
                let backward = bn.bind_backward(plan, &buffers).unwrap_or_else(|error| panic!("{name}: {error}"));
                let buffers = BackwardBuffers { saved: None, ..buffers };
                let recomputing = bn.bind_backward(plan, &buffers).unwrap_or_else(|error| panic!("{name}: {error}"));
                let buffers = FrozenBackwardBuffers {
                    activation: state,
                    input_gradient,
                    residual_gradient,
                    gamma_gradient,
                    beta_gradient,
                    ..roles.frozen()
                };
                let frozen =
                    bn.bind_backward_frozen(plan, &buffers).unwrap_or_else(|error| panic!("frozen {name}: {error}"));
                noop.run(|pass| {
                    backward.record(pass);
                    recomputing.record(pass);
                    frozen.record(pass);
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Arbitrary shapes, slices and sharing: bound or refused, never a panic, never an uncaptured error.
    #[test]
    fn arbitrary_input_is_bound_or_refused(
        dims in prop::collection::vec(0..6_usize, 1..7),
        channels in 0..6_u32,
        last in any::<bool>(),
        element in prop::sample::select(&ElementType::ALL[..]),
        activation in prop::sample::select(&ACTIVATIONS[..]),
        flaws in prop::collection::vec((0..40_u32, 0..3_u64, 0..2_u64), 17),
    ) {
        let noop = Noop::new();
        let layout = if last { Layout::ChannelsLast } else { Layout::ChannelsFirst };
        let pool = [noop.storage(1 << 16), noop.buffer(1 << 16, wgpu::BufferUsages::UNIFORM)];
        let run = || -> Result<(), Error> {
            let descriptor = BatchNormDescriptor { channels, layout, element, activation, ..Default::default() };
            let bn = BatchNorm::new(&noop.device, &descriptor)?;
            let plan = bn.plan(&Shape::new(&dims)?)?;
            let roles = Roles::new(&noop, &plan);
            // Most slices are right; a few are moved, resized or taken from a shared buffer.
            let slice = |index: usize, buffer: &'_ wgpu::Buffer| -> (bool, u64, u64, bool) {
                let (chance, offset, growth) = flaws[index];
                (chance == 0, offset * 128, buffer.size() + growth * 4, chance == 1)
            };
            let pick = |index: usize, buffer| {
                let (shared, offset, size, unusable) = slice(index, buffer);
                let source: &wgpu::Buffer = if unusable { &pool[1] } else if shared { &pool[0] } else { buffer };
                if shared || unusable { source.slice(offset..offset + size) } else { source.slice(..) }
            };
            let mut training = roles.training();
            training.input = pick(0, &roles.tensors[0]);
            training.output = pick(1, &roles.tensors[1]);
            training.gamma = (flaws[2].0 > 5).then(|| pick(2, &roles.vectors[0]));
            training.saved = (flaws[3].0 > 5).then(|| pick(3, &roles.saved));
            training.workspace = pick(4, &roles.workspace);
            training.residual = (flaws[10].0 > 20).then(|| pick(10, &roles.tensors[4]));
            training.activation_mask = (flaws[11].0 > 30).then(|| pick(11, &roles.mask));
            training.health = (flaws[12].0 > 20).then(|| pick(12, &roles.health));
            let mut backward = roles.backward();
            backward.output_gradient = pick(5, &roles.tensors[2]);
            backward.saved = (flaws[6].0 > 5).then(|| pick(6, &roles.saved));
            backward.input_gradient = (flaws[7].0 > 9).then(|| Gradient::Accumulate(pick(7, &roles.tensors[3])));
            backward.gamma_gradient = (flaws[8].0 > 9).then(|| Gradient::Overwrite(pick(8, &roles.vectors[4])));
            backward.beta_gradient = (flaws[9].0 > 9).then(|| Gradient::Overwrite(pick(9, &roles.vectors[5])));
            backward.residual_gradient = (flaws[13].0 > 20).then(|| Gradient::Overwrite(pick(13, &roles.tensors[5])));
            backward.activation = match flaws[14].0 {
                0..10 => ActivationState::Output(pick(14, &roles.tensors[1])),
                10..20 => ActivationState::Mask(pick(14, &roles.mask)),
                20..30 => ActivationState::Recompute { residual: Some(pick(14, &roles.tensors[4])) },
                _ => ActivationState::default(),
            };
            if flaws[15].0 > 20 {
                backward.input_gradient = Some(Gradient::Overwrite(backward.output_gradient));
            }
            if flaws[16].0 > 20 {
                training.output = training.input;
            }
            let training = bn.bind_training(&plan, &training)?;
            let backward = bn.bind_backward(&plan, &backward)?;
            let inference = bn.bind_inference(&plan, &roles.inference())?;
            let frozen = bn.bind_backward_frozen(&plan, &roles.frozen())?;
            noop.run(|pass| {
                training.record(pass);
                backward.record(pass);
                inference.record(pass);
                frozen.record(pass);
            });
            Ok(())
        };
        let _ = run();
        let uncaptured = noop.uncaptured.lock().unwrap();
        prop_assert!(uncaptured.is_empty(), "{uncaptured:?}");
    }
}
