//! The crate in the hands of a careless user: every bad input is a typed error before anything is recorded, and nothing
//! reaches wgpu's uncaptured-error handler.
//!
//! Runs on wgpu's noop backend: full validation, WebGPU's guaranteed limits, no GPU needed.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use wgpu_batch_norm::{
    AdapterClass, BackwardBuffers, BatchNorm, BatchNormDescriptor, Convention, Error, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, Kernels, KernelsDescriptor, Layout, Momentum, Plan, RunningStatistics, Shape, TrainingBuffers,
};

/// A noop device with the limits that WebGPU guarantees, and everything that reached its error handler.
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

impl Noop {
    fn new() -> Self {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::NOOP,
            backend_options: wgpu::BackendOptions { noop: wgpu::NoopBackendOptions::enabled(), ..Default::default() },
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapter = now(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
        Self::of(adapter)
    }

    /// Another device of the same adapter.
    fn twin(&self) -> Self {
        Self::of(self.adapter.clone())
    }

    fn of(adapter: wgpu::Adapter) -> Self {
        let (device, queue) = now(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
        assert_eq!(device.limits(), wgpu::Limits::default());
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
    tensors: [wgpu::Buffer; 4],
    vectors: [wgpu::Buffer; 6],
    saved: wgpu::Buffer,
    workspace: wgpu::Buffer,
    counter: wgpu::Buffer,
}

impl Roles {
    fn new(noop: &Noop, plan: &Plan) -> Self {
        Self {
            tensors: [(); 4].map(|()| noop.storage(plan.tensor_size())),
            vectors: [(); 6].map(|()| noop.storage(plan.vector_size())),
            saved: noop.storage(plan.saved_size()),
            workspace: noop.storage(plan.workspace_size()),
            counter: noop.storage(4),
        }
    }

    fn training(&self) -> TrainingBuffers<'_> {
        TrainingBuffers {
            input: self.tensors[0].slice(..),
            output: self.tensors[1].slice(..),
            gamma: Some(self.vectors[0].slice(..)),
            beta: Some(self.vectors[1].slice(..)),
            running: Some(RunningStatistics {
                mean: self.vectors[2].slice(..),
                variance: self.vectors[3].slice(..),
                batches_tracked: Some(self.counter.slice(..)),
            }),
            saved: Some(self.saved.slice(..)),
            workspace: self.workspace.slice(..),
        }
    }

    fn inference(&self) -> InferenceBuffers<'_> {
        InferenceBuffers {
            input: self.tensors[0].slice(..),
            output: self.tensors[1].slice(..),
            gamma: Some(self.vectors[0].slice(..)),
            beta: Some(self.vectors[1].slice(..)),
            running_mean: self.vectors[2].slice(..),
            running_variance: self.vectors[3].slice(..),
        }
    }

    fn backward(&self) -> BackwardBuffers<'_> {
        BackwardBuffers {
            input: self.tensors[0].slice(..),
            output_gradient: self.tensors[2].slice(..),
            gamma: Some(self.vectors[0].slice(..)),
            saved: Some(self.saved.slice(..)),
            input_gradient: Some(Gradient::Overwrite(self.tensors[3].slice(..))),
            gamma_gradient: Some(Gradient::Accumulate(self.vectors[4].slice(..))),
            beta_gradient: Some(Gradient::Overwrite(self.vectors[5].slice(..))),
            workspace: self.workspace.slice(..),
        }
    }

    fn frozen(&self) -> FrozenBackwardBuffers<'_> {
        FrozenBackwardBuffers {
            input: Some(self.tensors[0].slice(..)),
            output_gradient: self.tensors[2].slice(..),
            gamma: Some(self.vectors[0].slice(..)),
            running_mean: self.vectors[2].slice(..),
            running_variance: self.vectors[3].slice(..),
            input_gradient: Some(Gradient::Overwrite(self.tensors[3].slice(..))),
            gamma_gradient: Some(Gradient::Overwrite(self.vectors[4].slice(..))),
            beta_gradient: Some(Gradient::Overwrite(self.vectors[5].slice(..))),
            workspace: self.workspace.slice(..),
        }
    }
}

const SHAPE: [usize; 3] = [8, 64, 6];

fn set_up(noop: &Noop) -> (BatchNorm, Plan, Roles) {
    let bn = BatchNorm::new(&noop.device, &BatchNormDescriptor { channels: 64, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::new(&SHAPE).unwrap()).unwrap();
    let roles = Roles::new(noop, &plan);
    (bn, plan, roles)
}

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
    assert!(matches!(plan(&[1 << 30, 3]), Err(Error::LimitExceeded { limit: "max_storage_buffer_binding_size", .. })));
    noop.assert_quiet();
}

#[test]
fn every_slice_is_checked_for_size_usage_and_offset() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    type Put<'a> = fn(&mut TrainingBuffers<'a>, wgpu::BufferSlice<'a>);
    let places: [(&str, u64, Put<'_>); 9] = [
        ("input", plan.tensor_size(), |b, s| b.input = s),
        ("output", plan.tensor_size(), |b, s| b.output = s),
        ("gamma", plan.vector_size(), |b, s| b.gamma = Some(s)),
        ("beta", plan.vector_size(), |b, s| b.beta = Some(s)),
        ("running.mean", plan.vector_size(), |b, s| b.running.as_mut().unwrap().mean = s),
        ("running.variance", plan.vector_size(), |b, s| b.running.as_mut().unwrap().variance = s),
        ("running.batches_tracked", 4, |b, s| b.running.as_mut().unwrap().batches_tracked = Some(s)),
        ("saved", plan.saved_size(), |b, s| b.saved = Some(s)),
        ("workspace", plan.workspace_size(), |b, s| b.workspace = s),
    ];
    let larger = places.map(|(_, size, _)| noop.storage(size + 512));
    let unusable = places.map(|(_, size, _)| noop.buffer(size, wgpu::BufferUsages::COPY_DST));
    for (((name, size, put), large), copy_only) in places.into_iter().zip(&larger).zip(&unusable) {
        let with = |slice| {
            let mut buffers = roles.training();
            put(&mut buffers, slice);
            bn.bind_training(&plan, &buffers).map(drop)
        };
        let short = with(large.slice(..size - 4));
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
fn every_pair_of_overlapping_slices_is_refused_if_one_is_written() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    let shared = noop.storage(1 << 20);
    type Put<'a> = fn(&mut BackwardBuffers<'a>, wgpu::BufferSlice<'a>);
    let places: [(&str, bool, u64, Put<'_>); 8] = [
        ("input", false, plan.tensor_size(), |b, s| b.input = s),
        ("output_gradient", false, plan.tensor_size(), |b, s| b.output_gradient = s),
        ("gamma", false, plan.vector_size(), |b, s| b.gamma = Some(s)),
        ("saved", false, plan.saved_size(), |b, s| b.saved = Some(s)),
        ("input_gradient", true, plan.tensor_size(), |b, s| b.input_gradient = Some(Gradient::Overwrite(s))),
        ("gamma_gradient", true, plan.vector_size(), |b, s| b.gamma_gradient = Some(Gradient::Overwrite(s))),
        ("beta_gradient", true, plan.vector_size(), |b, s| b.beta_gradient = Some(Gradient::Overwrite(s))),
        ("workspace", true, plan.workspace_size(), |b, s| b.workspace = s),
    ];
    for (i, (first, first_written, first_size, put_first)) in places.into_iter().enumerate() {
        for (second, second_written, second_size, put_second) in places.into_iter().skip(i + 1) {
            let with = |offset: u64| {
                let mut buffers = roles.backward();
                put_first(&mut buffers, shared.slice(..first_size));
                put_second(&mut buffers, shared.slice(offset..offset + second_size));
                bn.bind_backward(&plan, &buffers)
            };
            let name = format!("{first} and {second}");
            match with(0) {
                Err(Error::OverlappingBuffers { .. }) => assert!(first_written || second_written, "{name}"),
                Ok(_) => assert!(!first_written && !second_written, "{name}"),
                Err(error) => panic!("{name}: {error}"),
            }
            // Apart in one pooled buffer: served, and accepted by wgpu's own validation.
            let apart = with(first_size.next_multiple_of(256)).unwrap_or_else(|error| panic!("{name}: {error}"));
            noop.run(|pass| apart.record(pass));
        }
    }
    noop.assert_quiet();
}

#[test]
fn one_pooled_buffer_serves_every_role() {
    let noop = Noop::new();
    let (bn, plan, _) = set_up(&noop);
    let pool = noop.storage(1 << 20);
    let mut end = 0;
    let mut take = |size: u64| {
        let start = end;
        end = (start + size).next_multiple_of(256);
        pool.slice(start..start + size)
    };
    let vector = plan.vector_size();
    let (input, output, dy, dx) =
        (take(plan.tensor_size()), take(plan.tensor_size()), take(plan.tensor_size()), take(plan.tensor_size()));
    let (gamma, beta, mean, variance) = (take(vector), take(vector), take(vector), take(vector));
    let (dgamma, dbeta) = (take(vector), take(vector));
    let (saved, workspace, counter) = (take(plan.saved_size()), take(plan.workspace_size()), take(4));
    let training = bn
        .bind_training(
            &plan,
            &TrainingBuffers {
                input,
                output,
                gamma: Some(gamma),
                beta: Some(beta),
                running: Some(RunningStatistics { mean, variance, batches_tracked: Some(counter) }),
                saved: Some(saved),
                workspace,
            },
        )
        .unwrap();
    let backward = bn
        .bind_backward(
            &plan,
            &BackwardBuffers {
                input,
                output_gradient: dy,
                gamma: Some(gamma),
                saved: Some(saved),
                input_gradient: Some(Gradient::Overwrite(dx)),
                gamma_gradient: Some(Gradient::Overwrite(dgamma)),
                beta_gradient: Some(Gradient::Overwrite(dbeta)),
                workspace,
            },
        )
        .unwrap();
    noop.run(|pass| {
        training.record(pass);
        backward.record(pass);
    });
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
fn handles_are_send_and_sync() {
    fn check<T: Send + Sync + 'static>() {}
    check::<BatchNorm>();
    check::<Kernels>();
    check::<Plan>();
    check::<wgpu_batch_norm::Step>();
    check::<wgpu_batch_norm::TrainingStep>();
    check::<Error>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Arbitrary shapes, slices and sharing: bound or refused, never a panic, never an uncaptured error.
    #[test]
    fn arbitrary_input_is_bound_or_refused(
        dims in prop::collection::vec(0..6_usize, 1..7),
        channels in 0..6_u32,
        last in any::<bool>(),
        flaws in prop::collection::vec((0..40_u32, 0..3_u64, 0..2_u64), 13),
    ) {
        let noop = Noop::new();
        let layout = if last { Layout::ChannelsLast } else { Layout::ChannelsFirst };
        let pool = [noop.storage(1 << 16), noop.buffer(1 << 16, wgpu::BufferUsages::UNIFORM)];
        let run = || -> Result<(), Error> {
            let bn = BatchNorm::new(&noop.device, &BatchNormDescriptor { channels, layout, ..Default::default() })?;
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
            let mut backward = roles.backward();
            backward.output_gradient = pick(5, &roles.tensors[2]);
            backward.saved = (flaws[6].0 > 5).then(|| pick(6, &roles.saved));
            backward.input_gradient = (flaws[7].0 > 9).then(|| Gradient::Accumulate(pick(7, &roles.tensors[3])));
            backward.gamma_gradient = (flaws[8].0 > 9).then(|| Gradient::Overwrite(pick(8, &roles.vectors[4])));
            backward.beta_gradient = (flaws[9].0 > 9).then(|| Gradient::Overwrite(pick(9, &roles.vectors[5])));
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
