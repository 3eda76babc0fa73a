//! What goes wrong around the library: lost devices, wrong devices, mistakes in the same pass, buffers that are gone, many
//! threads. Each is a typed error or what wgpu documents, and leaves the library as good as before.

use std::sync::Barrier;

use super::*;

impl Noop {
    /// What reached the error handler since the last call.
    fn take_uncaptured(&self) -> Vec<String> {
        std::mem::take(&mut self.uncaptured.lock().unwrap())
    }
}

/// Every operation on the same buffers.
fn bind_all(bn: &BatchNorm, plan: &Plan, roles: &Roles) -> [Result<(), Error>; 4] {
    [
        bn.bind_training(plan, &roles.training()).map(drop),
        bn.bind_inference(plan, &roles.inference()).map(drop),
        bn.bind_backward(plan, &roles.backward()).map(drop),
        bn.bind_backward_frozen(plan, &roles.frozen()).map(drop),
    ]
}

#[test]
fn a_lost_device_is_an_error_and_another_device_goes_on() {
    let noop = Noop::new();
    let twin = noop.twin();
    let (bn, plan, roles) = set_up(&noop);
    let step = bn.bind_training(&plan, &roles.training()).unwrap();
    let lost = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lost);
    noop.device.set_device_lost_callback(move |reason, _| log.lock().unwrap().push(reason));
    noop.run(|pass| step.record(pass));

    // In the middle of recording.
    let mut encoder = noop.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        step.record(&mut pass);
        noop.device.destroy();
        step.record(&mut pass);
    }
    noop.queue.submit([encoder.finish()]);
    noop.device.poll(wgpu::PollType::Poll).unwrap();
    assert_eq!(*lost.lock().unwrap(), [wgpu::DeviceLostReason::Destroyed]);

    // Steps that exist record without a panic, to no effect; new ones are refused, with kernels old and new.
    noop.run(|pass| step.record(pass));
    assert_eq!(bind_all(&bn, &plan, &roles), [const { Err(Error::DeviceLost) }; 4]);
    let fresh = BatchNorm::new(&noop.device, bn.descriptor()).unwrap();
    assert_eq!(bind_all(&fresh, &plan, &roles), [const { Err(Error::DeviceLost) }; 4]);
    noop.assert_quiet();

    // The plan serves on a device with the same limits.
    let (bn, same, roles) = set_up(&twin);
    assert_eq!(same, plan);
    let step = bn.bind_training(&plan, &roles.training()).unwrap();
    twin.run(|pass| step.record(pass));
    assert_eq!(bind_all(&bn, &plan, &roles), [const { Ok(()) }; 4]);
    twin.assert_quiet();
}

#[test]
#[expect(
    unsafe_code,
    reason = "a pipeline cache is created by an unsafe call, because of the data that it could be given"
)]
fn a_pipeline_that_cannot_be_created_is_an_error_and_not_remembered() {
    let noop = Noop::new();
    let open = || {
        let features = wgpu::Features::PIPELINE_CACHE;
        let descriptor = wgpu::DeviceDescriptor { required_features: features, ..Default::default() };
        now(noop.adapter.request_device(&descriptor)).unwrap()
    };
    let [(device, _), (other, _)] = [open(), open()];
    let cache = |device: &wgpu::Device| {
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: None, fallback: true };
        // SAFETY: there is no data.
        unsafe { device.create_pipeline_cache(&descriptor) }
    };
    let (own, plan, _) = set_up(&noop);
    for (cache, expected) in [(cache(&other), false), (cache(&device), true)] {
        let descriptor = KernelsDescriptor { pipeline_cache: Some(cache), ..Default::default() };
        let kernels = Kernels::with_descriptor(&device, &descriptor);
        let bn = BatchNorm::with_kernels(&kernels, own.descriptor()).unwrap();
        let buffer = |size| {
            let usage = wgpu::BufferUsages::STORAGE;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let [x, y] = [plan.tensor_size(); 2].map(buffer);
        let workspace = buffer(plan.workspace_size());
        for _ in 0..2 {
            let buffers = TrainingBuffers::new(x.slice(..), y.slice(..), workspace.slice(..));
            match bn.bind_training(&plan, &buffers) {
                Ok(_) => assert!(expected, "a cache of another device"),
                Err(Error::Device { object: "a pipeline", .. }) => assert!(!expected, "a cache of the same device"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_mistake_of_the_caller_in_the_same_pass_is_reported_to_the_caller_and_steps_stay_good() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    let step = bn.bind_training(&plan, &roles.training()).unwrap();
    let backward = bn.bind_backward(&plan, &roles.backward()).unwrap();
    type Mistake = fn(&mut wgpu::ComputePass<'_>);
    let mistakes: [(&str, Mistake); 3] = [
        ("dispatch group size", |pass| pass.dispatch_workgroups(1 << 20, 1, 1)),
        ("Bind group", |pass| pass.set_bind_group(99, None, &[])),
        ("debug", |pass| pass.pop_debug_group()),
    ];
    for (about, mistake) in mistakes {
        noop.run(|pass| {
            step.record(pass);
            mistake(pass);
            backward.record(pass);
        });
        let reported = noop.take_uncaptured();
        assert!(!reported.is_empty(), "{about}");
        assert!(reported.iter().all(|message| message.contains(about)), "{about}: {reported:?}");
        noop.run(|pass| {
            step.record(pass);
            backward.record(pass);
        });
        noop.assert_quiet();
    }
}

#[test]
fn a_step_recorded_on_another_device_is_reported_there_and_nowhere_else() {
    let noop = Noop::new();
    let twin = noop.twin();
    let (bn, plan, roles) = set_up(&noop);
    let training = bn.bind_training(&plan, &roles.training()).unwrap();
    let inference = bn.bind_inference(&plan, &roles.inference()).unwrap();
    type Record<'a> = &'a dyn Fn(&mut wgpu::ComputePass<'_>);
    let records: [Record<'_>; 2] = [&|pass| training.record(pass), &|pass| inference.record(pass)];
    for record in records {
        twin.run(record);
        let reported = twin.take_uncaptured();
        assert!(
            !reported.is_empty() && reported.iter().all(|message| message.contains("doesn't match")),
            "{reported:?}"
        );
        noop.run(record);
        noop.assert_quiet();
    }
    // The other device has lost nothing but that submission.
    let (bn, plan, roles) = set_up(&twin);
    let step = bn.bind_training(&plan, &roles.training()).unwrap();
    twin.run(|pass| step.record(pass));
    twin.assert_quiet();
}

#[test]
fn a_buffer_destroyed_before_submission_is_reported_by_the_submission_alone() {
    let noop = Noop::new();
    let (bn, ..) = set_up(&noop);
    // A strategy that has a use for the workspace.
    let split = Strategy::Split { reduction: Family::Rows, elementwise: Family::Rows };
    let strategies = Strategies { training: Some(split), ..Default::default() };
    let plan = bn.plan_with(&Shape::new(&SHAPE).unwrap(), strategies).unwrap();
    let spare = Roles::new(&noop, &plan);
    let other = bn.bind_training(&plan, &spare.training()).unwrap();
    type Operand = fn(&Roles) -> &wgpu::Buffer;
    let operands: [(&str, Operand); 9] = [
        ("input", |roles| &roles.tensors[0]),
        ("output", |roles| &roles.tensors[1]),
        ("gamma", |roles| &roles.vectors[0]),
        ("beta", |roles| &roles.vectors[1]),
        ("running mean", |roles| &roles.vectors[2]),
        ("running variance", |roles| &roles.vectors[3]),
        ("batch counter", |roles| &roles.counter),
        ("saved statistics", |roles| &roles.saved),
        ("workspace", |roles| &roles.workspace),
    ];
    for (name, operand) in operands {
        let roles = Roles::new(&noop, &plan);
        let training = bn.bind_training(&plan, &roles.training()).unwrap();
        let record = || {
            let mut encoder = noop.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            training.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
            encoder.finish()
        };
        let recorded = record();
        operand(&roles).destroy();
        noop.assert_quiet();
        // What was recorded before, and what is recorded from a step that was bound before.
        for commands in [recorded, record()] {
            noop.queue.submit([commands]);
            let reported = noop.take_uncaptured();
            assert!(reported.len() == 1 && reported[0].contains("has been destroyed"), "{name}: {reported:?}");
        }
        let refused = bn.bind_training(&plan, &roles.training()).map(drop);
        assert!(matches!(refused, Err(Error::Device { object: "a bind group", .. })), "{name}: {refused:?}");
        noop.run(|pass| other.record(pass));
        let again = bn.bind_training(&plan, &spare.training()).unwrap();
        noop.run(|pass| again.record(pass));
        noop.assert_quiet();
    }
}

#[test]
fn scopes_of_the_caller_see_nothing_of_a_refused_step() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    roles.tensors[0].destroy();
    let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal];
    let scopes = filters.map(|filter| noop.device.push_error_scope(filter));
    assert!(bn.bind_training(&plan, &roles.training()).is_err());
    for scope in scopes.into_iter().rev() {
        assert!(now(scope.pop()).is_none());
    }
    // And what is the caller's own stays the caller's.
    let scope = noop.device.push_error_scope(wgpu::ErrorFilter::Validation);
    noop.storage(u64::MAX);
    assert!(bn.bind_training(&plan, &roles.training()).is_err());
    assert!(now(scope.pop()).is_some());
    noop.assert_quiet();
}

#[test]
fn threads_share_one_batch_norm() {
    const THREADS: usize = 8;
    let noop = Noop::new();
    let bn = BatchNorm::new(&noop.device, &BatchNormDescriptor { channels: 64, ..Default::default() }).unwrap();
    // All compile the same pipelines at once, for the first time.
    let start = Barrier::new(THREADS);
    let threads = |index: usize| {
        let shape = if index.is_multiple_of(2) { [8, 64, 6] } else { [2, 64, 40] };
        let plan = bn.plan(&Shape::new(&shape).unwrap()).unwrap();
        let roles = Roles::new(&noop, &plan);
        start.wait();
        for _ in 0..4 {
            let training = bn.bind_training(&plan, &roles.training()).unwrap();
            let inference = bn.bind_inference(&plan, &roles.inference()).unwrap();
            let backward = bn.bind_backward(&plan, &roles.backward()).unwrap();
            noop.run(|pass| {
                training.record(pass);
                inference.record(pass);
                backward.record(pass);
            });
            // An error of one thread is no other's.
            let without = BackwardBuffers { output_gradient: roles.vectors[0].slice(..), ..roles.backward() };
            let wrong = bn.bind_backward(&plan, &without).map(drop);
            assert!(matches!(wrong, Err(Error::WrongSize { binding: "output_gradient", .. })), "{wrong:?}");
        }
        index
    };
    let finished: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|index| {
                let threads = &threads;
                scope.spawn(move || threads(index))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(finished, THREADS * (THREADS - 1) / 2);
    noop.assert_quiet();
}

#[test]
fn a_buffer_that_could_not_be_created_is_refused_and_others_are_served() {
    let noop = Noop::new();
    let (bn, plan, roles) = set_up(&noop);
    let scope = noop.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let invalid = noop.storage(u64::MAX / 2);
    assert!(now(scope.pop()).is_some());
    let output = invalid.slice(..plan.tensor_size());
    let refused = bn.bind_training(&plan, &TrainingBuffers { output, ..roles.training() }).map(drop);
    assert!(matches!(refused, Err(Error::Device { object: "a bind group", .. })), "{refused:?}");
    assert_eq!(bind_all(&bn, &plan, &roles), [const { Ok(()) }; 4]);
    noop.assert_quiet();
}
