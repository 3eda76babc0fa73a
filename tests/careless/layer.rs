//! The layer: what it owns, what it refuses, and how it goes on.

use super::*;
use wgpu_batch_norm::{BatchNormLayer, BatchNormLayerDescriptor, LayerMode, LayerState, RunningState};

fn describe(channels: u32) -> BatchNormLayerDescriptor {
    let batch_norm = BatchNormDescriptor { channels, ..Default::default() };
    BatchNormLayerDescriptor { batch_norm, ..Default::default() }
}

/// Neither parameters nor running statistics.
fn bare(channels: u32) -> BatchNormLayerDescriptor {
    BatchNormLayerDescriptor { gamma: None, beta: None, track_running_statistics: false, ..describe(channels) }
}

fn state(channels: usize) -> LayerState {
    let running = RunningState { mean: vec![0.0; channels], variance: vec![1.0; channels], batches_tracked: 3 };
    LayerState { gamma: Some(vec![1.0; channels]), beta: Some(vec![0.0; channels]), running: Some(running) }
}

/// A layer on the shape of all other tests, its plan and tensors.
fn layer_on(noop: &Noop, descriptor: &BatchNormLayerDescriptor) -> (BatchNormLayer, Plan, Roles) {
    let layer = BatchNormLayer::new(&noop.device, descriptor).unwrap();
    let plan = layer.plan(&Shape::new(&SHAPE).unwrap()).unwrap();
    let roles = Roles::new(noop, &plan);
    (layer, plan, roles)
}

#[test]
fn a_layer_has_what_is_described_in_the_size_that_steps_take() {
    let noop = Noop::new();
    let options = [(true, true, true), (false, true, true), (true, false, false), (false, false, false)];
    for (gamma, beta, tracks) in options {
        let descriptor = BatchNormLayerDescriptor {
            gamma: gamma.then_some(1.0),
            beta: beta.then_some(0.0),
            track_running_statistics: tracks,
            ..describe(64)
        };
        let (layer, plan, roles) = layer_on(&noop, &descriptor);
        assert_eq!(layer.mode(), LayerMode::Training);
        let has = [
            (layer.gamma(), gamma, 256),
            (layer.gamma_gradient(), gamma, 256),
            (layer.beta(), beta, 256),
            (layer.beta_gradient(), beta, 256),
            (layer.running_mean(), tracks, 256),
            (layer.running_variance(), tracks, 256),
            (layer.batches_tracked(), tracks, 4),
        ];
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        for (buffer, expected, size) in has {
            assert_eq!(buffer.map(|buffer| (buffer.size(), buffer.usage())), expected.then_some((size, usage)));
        }
        let names: Vec<_> = layer.parameters().map(|parameter| parameter.name).collect();
        assert_eq!(names, [gamma.then_some("gamma"), beta.then_some("beta")].into_iter().flatten().collect::<Vec<_>>());
        let bytes = 256 * (u64::from(gamma) + u64::from(beta) + 2 * u64::from(tracks)) + 4 * u64::from(tracks);
        assert_eq!(layer.state_size(), bytes);

        let [x, y, dy, dx, ..] = &roles.tensors;
        let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..))).unwrap();
        let buffers = BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
            ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
        };
        let backward = layer.bind_backward(&forward, &buffers).unwrap();
        let inference = layer.inference_buffers(x.slice(..), y.slice(..));
        assert_eq!(inference.is_some(), tracks);
        let inference = inference.map(|buffers| layer.batch_norm().bind_inference(&plan, &buffers).unwrap());
        for mode in [LayerMode::Training, LayerMode::Inference] {
            layer.set_mode(mode);
            assert_eq!(layer.mode(), mode);
            noop.run(|pass| {
                forward.record(pass);
                backward.record(pass);
                forward.record_without_running_update(pass);
                inference.iter().for_each(|step| step.record(pass));
            });
            let mut encoder = noop.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            forward.record_into(&mut encoder);
            backward.record_into(&mut encoder);
            noop.queue.submit([encoder.finish()]);
        }
        noop.assert_quiet();
    }
}

#[test]
fn what_is_fused_in_the_buffers_of_steps_is_fused_in_a_layer() {
    let noop = Noop::new();
    let mut descriptor = describe(64);
    descriptor.batch_norm.activation = Activation::Relu;
    let (layer, plan, roles) = layer_on(&noop, &descriptor);
    let [x, y, dy, dx, z, dz] = &roles.tensors;
    let forward = TrainingBuffers {
        residual: Some(z.slice(..)),
        activation_mask: Some(roles.mask.slice(..)),
        health: Some(roles.health.slice(..)),
        ..layer.training_buffers(x.slice(..), y.slice(..))
    };
    let bound = layer.bind_forward(&plan, &forward).unwrap();
    let backward = BackwardBuffers {
        activation: ActivationState::Mask(roles.mask.slice(..)),
        input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
        residual_gradient: Some(Gradient::Overwrite(dz.slice(..))),
        gamma_gradient: layer.gamma_gradient().map(|gradient| Gradient::Accumulate(gradient.slice(..))),
        ..layer.backward_buffers(&bound, x.slice(..), dy.slice(..))
    };
    let back = layer.bind_backward(&bound, &backward).unwrap();
    // Parameters from an arena of the program's own.
    let arena = TrainingBuffers { gamma: Some(roles.vectors[0].slice(..)), ..forward };
    assert!(layer.bind_forward(&plan, &arena).is_ok());
    // Statistics where the program wants them.
    let kept = layer.bind_forward(&plan, &TrainingBuffers { saved: Some(roles.saved.slice(..)), ..forward }).unwrap();
    assert_eq!(kept.saved().buffer(), &roles.saved);
    assert_eq!(kept.plan(), &plan);
    noop.run(|pass| {
        for mode in [LayerMode::Training, LayerMode::Inference] {
            bound.record_as(pass, mode);
            back.record(pass);
        }
    });
    // A padded batch leaves inference no binding for a mask.
    let padded = TrainingBuffers { valid: Some(roles.valid.slice(..)), ..forward };
    assert_eq!(layer.bind_forward(&plan, &padded).map(drop), Err(Error::PaddedActivationMask));
    let padded = TrainingBuffers { activation_mask: None, ..padded };
    assert!(layer.bind_forward(&plan, &padded).is_ok());
    noop.assert_quiet();
}

/// What backward would be silently wrong without.
#[test]
fn backward_is_given_what_forward_was_bound_to() {
    let noop = Noop::new();
    let mut descriptor = describe(64);
    for activation in [Activation::Identity, Activation::Silu] {
        descriptor.batch_norm.activation = activation;
        let (layer, plan, roles) = layer_on(&noop, &descriptor);
        let [x, y, dy, z, ..] = &roles.tensors;
        let own = layer.training_buffers(x.slice(..), y.slice(..));
        let plain = layer.bind_forward(&plan, &own).unwrap();
        let buffers = layer.backward_buffers(&plain, x.slice(..), dy.slice(..));
        assert!(buffers.valid.is_none() && buffers.renormalization.is_none());
        assert!(matches!(buffers.activation, ActivationState::Recompute { residual: None }));
        assert_eq!((buffers.gamma, buffers.beta), (own.gamma, own.beta));

        // Parameters from an arena of the program's own, and none.
        let arena = TrainingBuffers { gamma: Some(roles.vectors[0].slice(..)), beta: None, ..own };
        let forward = layer.bind_forward(&plan, &arena).unwrap();
        let buffers = layer.backward_buffers(&forward, x.slice(..), dy.slice(..));
        assert_eq!((buffers.gamma, buffers.beta), (arena.gamma, None));
        assert!(layer.bind_backward(&forward, &buffers).is_ok());

        let limits = noop.storage(8);
        let given = TrainingBuffers { residual: Some(z.slice(..)), valid: Some(roles.valid.slice(..)), ..own };
        let forward = layer.bind_renormalized_forward(&plan, &given, limits.slice(..)).unwrap();
        assert_eq!(forward.renormalization().unwrap().size(), plan.renormalization_size());
        let buffers = layer.backward_buffers(&forward, x.slice(..), dy.slice(..));
        assert_eq!(buffers.valid, given.valid);
        assert_eq!(buffers.renormalization, forward.renormalization());
        let ActivationState::Recompute { residual } = buffers.activation else { panic!("{buffers:?}") };
        assert_eq!(residual, given.residual.filter(|_| activation != Activation::Identity));
        let backward = layer.bind_backward(&forward, &buffers).unwrap();
        noop.run(|pass| {
            for mode in [LayerMode::Training, LayerMode::Inference] {
                forward.record_as(pass, mode);
                backward.record(pass);
            }
        });
        let short = layer.bind_renormalized_forward(&plan, &given, limits.slice(..4)).map(drop);
        assert_eq!(short, Err(Error::WrongSize { binding: "renormalization.limits", expected: 8, actual: 4 }));
    }
    let (bare, plan, roles) = layer_on(&noop, &bare(64));
    let [x, y, ..] = &roles.tensors;
    let buffers = bare.training_buffers(x.slice(..), y.slice(..));
    let limits = noop.storage(8);
    let refused = bare.bind_renormalized_forward(&plan, &buffers, limits.slice(..)).map(drop);
    assert_eq!(refused, Err(Error::MissingRunningStatistics));
    noop.assert_quiet();
}

#[test]
fn a_layer_fills_in_what_statistics_of_a_data_set_take() {
    let noop = Noop::new();
    let (layer, plan, roles) = layer_on(&noop, &describe(64));
    let moments = noop.storage(plan.moments_size());
    let accumulate = layer.accumulate_buffers(roles.tensors[0].slice(..), moments.slice(..));
    let accumulate = layer.batch_norm().bind_accumulate(&plan, &accumulate).unwrap();
    let population = layer.population_buffers(moments.slice(..)).unwrap();
    assert_eq!(Some(population.running_mean.buffer()), layer.running_mean());
    assert_eq!(Some(population.running_variance.buffer()), layer.running_variance());
    let population = layer.batch_norm().bind_population(&plan, &population).unwrap();
    noop.run(|pass| {
        accumulate.record(pass);
        population.record(pass);
    });
    let (bare, ..) = layer_on(&noop, &bare(64));
    assert!(bare.population_buffers(moments.slice(..)).is_none());
    noop.assert_quiet();
}

#[test]
fn resets_of_destroyed_buffers_are_errors() {
    let noop = Noop::new();
    let (layer, ..) = layer_on(&noop, &describe(64));
    assert_eq!(layer.reset_parameters(&noop.queue), Ok(()));
    assert_eq!(layer.reset_running_statistics(&noop.queue), Ok(()));
    layer.beta().unwrap().destroy();
    layer.running_variance().unwrap().destroy();
    for refused in [layer.reset_parameters(&noop.queue), layer.reset_running_statistics(&noop.queue)] {
        assert!(matches!(refused, Err(Error::Device { object: "the state of a layer", .. })), "{refused:?}");
    }
    let (bare, ..) = layer_on(&noop, &bare(64));
    assert_eq!(bare.reset_parameters(&noop.queue), Ok(()));
    assert_eq!(bare.reset_running_statistics(&noop.queue), Ok(()));
    noop.assert_quiet();
}

#[test]
fn what_is_written_to_a_layer_of_a_lost_device_is_an_error() {
    let noop = Noop::new();
    let (layer, ..) = layer_on(&noop, &describe(64));
    assert_eq!(layer.load_state(&noop.queue, &state(64)), Ok(()));
    noop.device.destroy();
    assert_eq!(layer.load_state(&noop.queue, &state(64)), Err(Error::DeviceLost));
    assert_eq!(layer.reset_parameters(&noop.queue), Err(Error::DeviceLost));
    assert_eq!(layer.reset_running_statistics(&noop.queue), Err(Error::DeviceLost));
    noop.assert_quiet();
}

#[test]
fn the_workspace_grows_with_shapes_and_bound_steps_keep_theirs() {
    let noop = Noop::new();
    let layer = BatchNormLayer::new(&noop.device, &describe(64)).unwrap();
    let shapes = [[8, 64, 6], [64, 64, 100_000], [2, 64, 6]].map(|shape| Shape::new(&shape).unwrap());
    // Planned elsewhere.
    let plan = layer.batch_norm().plan(&shapes[0]).unwrap();
    let [x, y] = [(); 2].map(|()| noop.storage(plan.tensor_size()));
    let bind = |layer: &BatchNormLayer| layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..)));
    let refused = bind(&layer).map(drop);
    assert!(matches!(refused, Err(Error::TooSmall { binding: "workspace", .. })), "{refused:?}");
    layer.reserve(&plan).unwrap();
    let first = layer.workspace().clone();
    assert_eq!(first.size(), plan.workspace_size());
    let forward = bind(&layer).unwrap();
    let large = layer.plan(&shapes[1]).unwrap();
    assert!(large.workspace_size() > first.size(), "{} bytes", large.workspace_size());
    assert_eq!(layer.workspace().size(), large.workspace_size());
    let second = layer.workspace().clone();
    layer.plan(&shapes[2]).unwrap();
    assert_eq!(layer.workspace(), &second);
    let again = bind(&layer).unwrap();
    noop.run(|pass| {
        forward.record(pass);
        again.record(pass);
    });
    noop.assert_quiet();
}

#[test]
fn threads_plan_by_one_layer_and_all_find_room() {
    let noop = Noop::new();
    let layer = BatchNormLayer::new(&noop.device, &describe(64)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let layer = &layer;
            scope.spawn(move || {
                for rows in (1 + thread..400).step_by(40) {
                    let plan = layer.plan(&Shape::new(&[64, 64, 32 * rows]).unwrap()).unwrap();
                    assert!(layer.workspace().size() >= plan.workspace_size(), "{rows} rows");
                }
            });
        }
    });
    noop.assert_quiet();
}

#[test]
fn a_workspace_that_is_outgrown_is_at_most_half_of_the_next() {
    let noop = Noop::new();
    let layer = BatchNormLayer::new(&noop.device, &describe(64)).unwrap();
    let mut sizes = Vec::new();
    for exponent in 0..17 {
        layer.plan(&Shape::new(&[64, 64, 1 << exponent]).unwrap()).unwrap();
        sizes.push(layer.workspace().size());
    }
    sizes.dedup();
    assert!(sizes.len() > 1, "{sizes:?}");
    assert!(sizes.windows(2).all(|pair| pair[1] >= 2 * pair[0]), "{sizes:?}");
}

#[test]
fn sets_of_running_statistics_start_where_bindings_may() {
    let noop = Noop::new();
    let layer_of = |segment_running| {
        let mut descriptor = BatchNormLayerDescriptor { running_sets: 3, ..describe(20) };
        descriptor.batch_norm.layout = Layout::ChannelsLast;
        descriptor.batch_norm.convention.segment_running = segment_running;
        BatchNormLayer::new(&noop.device, &descriptor).unwrap()
    };
    let bind = |layer: &BatchNormLayer, shape: &Shape, running: Option<RunningStatistics<'_>>| {
        let plan = layer.plan(shape).unwrap();
        let [x, y] = [(); 2].map(|()| noop.storage(plan.tensor_size()));
        let own = layer.training_buffers(x.slice(..), y.slice(..));
        let forward = layer.bind_forward(&plan, &TrainingBuffers { running: running.or(own.running), ..own })?;
        noop.run(|pass| {
            for mode in [LayerMode::Training, LayerMode::Inference] {
                forward.record_as(pass, mode);
            }
        });
        Ok::<_, Error>(())
    };
    let step = Shape::new(&[5, 20]).unwrap();
    let steps = Shape::new(&[3, 5, 20]).unwrap().with_segments_along(0).unwrap();

    // Each by itself: 80 bytes at multiples of 256.
    let apart = layer_of(SegmentRunning::InTurn);
    for set in 0..3 {
        let running = apart.running_set(set).unwrap();
        for slice in [running.mean, running.variance] {
            assert_eq!((slice.offset(), slice.size()), (256 * u64::from(set), 80));
        }
        assert_eq!(running.batches_tracked.is_some(), set == 0);
        assert_eq!(bind(&apart, &step, Some(running)), Ok(()));
    }
    assert!(apart.running_set(3).is_none());
    assert_eq!(bind(&apart, &step, None), Ok(()));
    assert_eq!(bind(&apart, &steps, None), Ok(()), "segments share the first set");
    // One after the other, as segments take them.
    let joined = layer_of(SegmentRunning::Separate);
    assert_eq!(joined.running_mean().unwrap().size(), 240);
    assert_eq!(bind(&joined, &steps, None), Ok(()));
    assert_eq!(bind(&joined, &step, joined.running_set(0)), Ok(()));
    let misaligned = Error::MisalignedOffset { binding: "running.mean", offset: 80, alignment: 256 };
    assert_eq!(bind(&joined, &step, joined.running_set(1)), Err(misaligned));

    // A state has the sets one after the other, wherever they stand.
    for layer in [apart, joined] {
        assert_eq!(layer.state_size(), (20 + 20 + 60 + 60 + 1) * 4);
        let running = RunningState { mean: vec![0.5; 60], variance: vec![2.0; 60], batches_tracked: 1 };
        let state = LayerState { gamma: Some(vec![1.0; 20]), beta: Some(vec![0.0; 20]), running: Some(running) };
        assert_eq!(layer.load_state(&noop.queue, &state), Ok(()));
        let one_set = Error::WrongLength { binding: "running.mean", expected: 60, actual: 20 };
        let running = RunningState { mean: vec![0.5; 20], ..state.running.clone().unwrap() };
        let short = LayerState { running: Some(running), ..state.clone() };
        assert_eq!(layer.load_state(&noop.queue, &short), Err(one_set));
        let words: Vec<f32> = (0_u8..160).map(f32::from).chain([0.0]).collect();
        let found = layer.state_from_bytes(bytemuck::cast_slice(&words)).unwrap().running.unwrap();
        assert_eq!((found.mean, found.variance), (words[40..100].to_vec(), words[100..160].to_vec()));
    }
    let untracked = BatchNormLayerDescriptor { track_running_statistics: false, ..describe(20) };
    assert!(BatchNormLayer::new(&noop.device, &untracked).unwrap().running_set(0).is_none());
    noop.assert_quiet();
}

#[test]
fn a_layer_fills_in_what_folding_takes() {
    let noop = Noop::new();
    let buffers = [4 * 64 * 9, 4 * 64 * 9, 256, 256].map(|size| noop.storage(size));
    let [weight, folded_weight, bias, folded_bias] = buffers.each_ref().map(|buffer| buffer.slice(..));
    for (gamma, beta) in [(Some(1.0), Some(0.0)), (None, Some(0.0)), (None, None)] {
        let layer =
            BatchNormLayer::new(&noop.device, &BatchNormLayerDescriptor { gamma, beta, ..describe(64) }).unwrap();
        let plan = layer.batch_norm().plan(&Shape::flat(1, 64, 9)).unwrap();
        let own = layer.fold_buffers(weight, folded_weight, folded_bias).unwrap();
        assert_eq!((own.gamma.map(|own| own.buffer()), own.bias.is_none()), (layer.gamma(), true));
        assert_eq!(own.beta.map(|own| own.buffer()), layer.beta());
        assert_eq!(Some(own.running_mean.buffer()), layer.running_mean());
        assert_eq!(Some(own.running_variance.buffer()), layer.running_variance());
        for bias in [None, Some(bias)] {
            let step = layer.batch_norm().bind_fold(&plan, &FoldBuffers { bias, ..own }).unwrap();
            noop.run(|pass| step.record(pass));
        }
    }
    let bare = BatchNormLayer::new(&noop.device, &bare(64)).unwrap();
    assert!(bare.fold_buffers(weight, folded_weight, folded_bias).is_none());
    noop.assert_quiet();
}

#[test]
fn layers_share_kernels_and_plans() {
    let noop = Noop::new();
    let kernels = Kernels::new(&noop.device);
    assert_eq!(kernels.device(), &noop.device);
    let layers = [(); 2].map(|()| BatchNormLayer::with_kernels(&kernels, &describe(64)).unwrap());
    let plan = layers[0].plan(&Shape::new(&SHAPE).unwrap()).unwrap();
    layers[1].reserve(&plan).unwrap();
    let roles = Roles::new(&noop, &plan);
    let [x, y, z, ..] = &roles.tensors;
    let first = layers[0].bind_forward(&plan, &layers[0].training_buffers(x.slice(..), y.slice(..))).unwrap();
    let second = layers[1].bind_forward(&plan, &layers[1].training_buffers(y.slice(..), z.slice(..))).unwrap();
    noop.run(|pass| {
        first.record(pass);
        second.record(pass);
    });
    noop.assert_quiet();
}

#[test]
fn steps_of_a_layer_are_refused_as_those_of_its_batch_norm() {
    let noop = Noop::new();
    let (layer, plan, roles) = layer_on(&noop, &describe(64));
    let [x, y, dy, dx, ..] = &roles.tensors;
    let foreign = Plan::new(
        &BatchNormDescriptor { channels: 64, convention: Convention::keras(), ..Default::default() },
        &Shape::new(&SHAPE).unwrap(),
        layer.batch_norm().kernels().profile(),
    )
    .unwrap();
    let buffers = layer.training_buffers(x.slice(..), y.slice(..));
    assert_eq!(layer.bind_forward(&foreign, &buffers).map(drop), Err(Error::PlanMismatch));
    let wrong = TrainingBuffers { output: roles.saved.slice(..), ..buffers };
    let refused = layer.bind_forward(&plan, &wrong).map(drop);
    assert!(matches!(refused, Err(Error::WrongSize { binding: "output", .. })), "{refused:?}");
    let forward = layer.bind_forward(&plan, &buffers).unwrap();
    let backward = layer.backward_buffers(&forward, x.slice(..), dy.slice(..));
    assert!(layer.bind_backward(&forward, &backward).is_ok(), "gradients of gamma and beta alone");
    let nothing = BackwardBuffers { gamma_gradient: None, beta_gradient: None, ..backward };
    assert_eq!(layer.bind_backward(&forward, &nothing).map(drop), Err(Error::NoGradientRequested));
    let input_gradient = Some(Gradient::Overwrite(x.slice(..)));
    let overlapping = layer.bind_backward(&forward, &BackwardBuffers { input_gradient, ..backward }).map(drop);
    assert!(matches!(overlapping, Err(Error::OverlappingBuffers { .. })), "{overlapping:?}");
    let input_gradient = Some(Gradient::Overwrite(dx.slice(..)));
    assert!(layer.bind_backward(&forward, &BackwardBuffers { input_gradient, ..backward }).is_ok());

    // One value a channel cannot be trained on, but inferred.
    let one = layer.plan(&Shape::new(&[1, 64]).unwrap()).unwrap();
    let [x, y] = [(); 2].map(|()| noop.storage(one.tensor_size()));
    let refused = layer.bind_forward(&one, &layer.training_buffers(x.slice(..), y.slice(..))).map(drop);
    assert_eq!(refused, Err(Error::OneSample));
    let inference = layer.inference_buffers(x.slice(..), y.slice(..)).unwrap();
    assert!(layer.batch_norm().bind_inference(&one, &inference).is_ok());
    noop.assert_quiet();
}

#[test]
fn layers_that_cannot_be_are_errors() {
    let noop = Noop::new();
    let new = |descriptor: &BatchNormLayerDescriptor| BatchNormLayer::new(&noop.device, descriptor).map(drop);
    assert_eq!(new(&BatchNormLayerDescriptor::default()), Err(Error::NoChannels));
    for descriptor in [
        describe(u32::MAX),
        BatchNormLayerDescriptor { running_sets: u32::MAX, ..describe(u32::MAX) },
        BatchNormLayerDescriptor { running_sets: u32::MAX, gamma: None, beta: None, ..describe(64) },
    ] {
        let refused = new(&descriptor);
        assert!(matches!(refused, Err(Error::Device { object: "a buffer of a layer", .. })), "{refused:?}");
    }
    assert_eq!(new(&BatchNormLayerDescriptor { running_sets: 0, ..describe(64) }), Ok(()));
    noop.assert_quiet();
    noop.device.destroy();
    assert_eq!(new(&describe(64)), Err(Error::DeviceLost));
    noop.assert_quiet();
}

#[test]
fn a_state_that_is_not_the_layers_is_refused_by_its_part() {
    let noop = Noop::new();
    let queue = &noop.queue;
    let (layer, ..) = layer_on(&noop, &describe(64));
    assert_eq!(layer.load_state(queue, &state(64)), Ok(()));
    let (bare, ..) = layer_on(&noop, &bare(64));
    assert_eq!(bare.load_state(queue, &LayerState::default()), Ok(()));
    type Change = fn(&mut LayerState, LayerState);
    let parts: [(&str, Change); 3] = [
        ("gamma", |state, other| state.gamma = other.gamma),
        ("beta", |state, other| state.beta = other.beta),
        ("running", |state, other| state.running = other.running),
    ];
    for (part, change) in parts {
        let mut without = state(64);
        change(&mut without, LayerState::default());
        assert_eq!(layer.load_state(queue, &without), Err(Error::MissingState { part }));
        let mut with = LayerState::default();
        change(&mut with, state(64));
        assert_eq!(bare.load_state(queue, &with), Err(Error::UnexpectedState { part }));
    }
    type Part = fn(&mut LayerState) -> &mut Vec<f32>;
    let vectors: [(&str, Part); 4] = [
        ("gamma", |state| state.gamma.as_mut().unwrap()),
        ("beta", |state| state.beta.as_mut().unwrap()),
        ("running.mean", |state| &mut state.running.as_mut().unwrap().mean),
        ("running.variance", |state| &mut state.running.as_mut().unwrap().variance),
    ];
    for (binding, vector) in vectors {
        for actual in [0, 1, 63, 65] {
            let mut wrong = state(64);
            vector(&mut wrong).resize(actual as usize, 0.0);
            let error = Error::WrongLength { binding, expected: 64, actual };
            assert_eq!(layer.load_state(queue, &wrong), Err(error));
        }
    }
    noop.assert_quiet();
    layer.beta().unwrap().destroy();
    let refused = layer.load_state(queue, &state(64));
    assert!(matches!(refused, Err(Error::Device { object: "the state of a layer", .. })), "{refused:?}");
    noop.assert_quiet();
}

#[test]
fn copies_of_a_state_are_checked_before_they_are_recorded() {
    let noop = Noop::new();
    let (layer, ..) = layer_on(&noop, &describe(64));
    let size = layer.state_size();
    assert_eq!(size, 4 * 256 + 4);
    let copy_to = wgpu::BufferUsages::COPY_DST;
    let [staging, unusable] = [copy_to, wgpu::BufferUsages::COPY_SRC].map(|usage| noop.buffer(2 * size + 8, usage));
    let mut encoder = noop.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut copy = |slice| layer.record_state_copy(&mut encoder, slice);
    for actual in [0, size - 4, size + 4] {
        let error = Error::WrongSize { binding: "staging", expected: size, actual };
        assert_eq!(copy(staging.slice(..actual)), Err(error));
    }
    assert_eq!(copy(unusable.slice(..size)), Err(Error::MissingCopyUsage { binding: "staging" }));
    let misaligned = Error::MisalignedCopy { binding: "staging", offset: 2 };
    assert_eq!(copy(staging.slice(2..size + 2)), Err(misaligned));
    assert_eq!(copy(staging.slice(..size)), Ok(()));
    assert_eq!(copy(staging.slice(size..2 * size)), Ok(()), "another layer's place in the same buffer");
    noop.queue.submit([encoder.finish()]);

    for actual in [0, size as usize - 1, size as usize + 4] {
        let error = Error::WrongSize { binding: "bytes", expected: size, actual: actual as u64 };
        assert_eq!(layer.state_from_bytes(&vec![0; actual]), Err(error));
    }
    // Mapped ranges need not be aligned for f32.
    let bytes = vec![0; size as usize + 1];
    let empty = RunningState { mean: vec![0.0; 64], variance: vec![0.0; 64], batches_tracked: 0 };
    let expected = LayerState { gamma: Some(vec![0.0; 64]), beta: Some(vec![0.0; 64]), running: Some(empty) };
    assert_eq!(layer.state_from_bytes(&bytes[1..]), Ok(expected));

    // A layer whose one vector is as long as its state.
    let descriptor = BatchNormLayerDescriptor { gamma: Some(1.0), ..bare(64) };
    let (lone, ..) = layer_on(&noop, &descriptor);
    let mut encoder = noop.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let own = lone.record_state_copy(&mut encoder, lone.gamma().unwrap().slice(..));
    assert_eq!(own, Err(Error::OverlappingBuffers { first: "gamma", second: "staging" }));
    let (bare, ..) = layer_on(&noop, &bare(64));
    assert_eq!(bare.record_state_copy(&mut encoder, staging.slice(..0)), Ok(()));
    assert_eq!(bare.state_from_bytes(&[]), Ok(LayerState::default()));
    noop.queue.submit([encoder.finish()]);
    noop.assert_quiet();
}
