//! The layer: against the reference, against PyTorch's module, its modes, and its state on the way to the device and back.

use std::path::Path;

use crate::common::case::{Case, POISON, Results, Segments, loaded, stored};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::safetensors::SafeTensors;
use wgpu_batch_norm::{
    Activation, ActivationSource, ActivationState, BackwardBuffers, BatchNormDescriptor, BatchNormLayer,
    BatchNormLayerDescriptor, ElementType, Gradient, LayerMode, LayerState, Momentum, Renormalization, RunningState,
    SegmentRunning, SequenceAxes, Shape, TrainingBuffers, ValidBuffers, ValidSource,
};

/// What a case starts from.
fn state_of(case: &Case) -> LayerState {
    let running = RunningState {
        mean: case.running_mean.clone(),
        variance: case.running_variance.clone(),
        batches_tracked: case.batches_tracked.unwrap_or(0),
    };
    LayerState { gamma: case.gamma.clone(), beta: case.beta.clone(), running: Some(running) }
}

fn describe(case: &Case) -> BatchNormLayerDescriptor {
    BatchNormLayerDescriptor {
        batch_norm: case.descriptor(),
        // Values that a state must replace.
        gamma: case.gamma.as_ref().map(|_| POISON),
        beta: case.beta.as_ref().map(|_| POISON),
        running_sets: (case.running_mean.len() / case.channels()) as u32,
        ..Default::default()
    }
}

fn read_state(target: &Target, layer: &BatchNormLayer) -> LayerState {
    let gpu = &target.gpu;
    let staging = gpu.zeroed("staging", layer.state_size());
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    layer.record_state_copy(&mut encoder, staging.slice(..layer.state_size())).unwrap();
    gpu.queue.submit([encoder.finish()]);
    layer.state_from_bytes(&gpu.read::<u8>(&staging, layer.state_size() as usize)).unwrap()
}

/// Inference and backward through frozen statistics, then training and its backward, all by one layer with one forward and one
/// backward.
fn run(target: &Target, case: &Case, layer: &BatchNormLayer) -> Results {
    let gpu = &target.gpu;
    let plan = layer.plan(&case.shape()).unwrap();
    let elements = case.input.len();
    let tensor = |label, values: &[f32]| gpu.upload(label, &stored(case.element, values));
    let poisoned = |label| tensor(label, &vec![POISON; elements]);
    let (x, dy) = (tensor("x", &case.input), tensor("dy", &case.output_gradient));
    let z = case.residual.as_deref().map(|values| tensor("z", values));
    let [y, dx, dz] = ["y", "dx", "dz"].map(poisoned);
    let whole = ..plan.tensor_size();
    let residual = z.as_ref().map(|z| z.slice(whole));
    let buffers = TrainingBuffers { residual, ..layer.training_buffers(x.slice(whole), y.slice(whole)) };
    let forward = layer.bind_forward(&plan, &buffers).unwrap();
    let buffers = BackwardBuffers {
        activation: ActivationState::Recompute { residual },
        input_gradient: Some(Gradient::Overwrite(dx.slice(whole))),
        residual_gradient: residual.map(|_| Gradient::Overwrite(dz.slice(whole))),
        ..layer.backward_buffers(&forward, x.slice(whole), dy.slice(whole))
    };
    let backward = layer.bind_backward(&forward, &buffers).unwrap();
    let read = |buffer| loaded(case.element, &gpu.read::<u32>(buffer, plan.tensor_size() as usize / 4), elements);
    let read_vector = |buffer: Option<&wgpu::Buffer>| match buffer {
        Some(buffer) => gpu.read(buffer, case.channels()),
        None => vec![0.0; case.channels()],
    };
    let step = |mode| {
        layer.set_mode(mode);
        gpu.submit(|pass| {
            forward.record(pass);
            backward.record(pass);
        });
        let returned = if residual.is_some() { read(&dz) } else { Vec::new() };
        (read(&y), read(&dx), returned, read_vector(layer.gamma_gradient()), read_vector(layer.beta_gradient()))
    };
    let frozen = step(LayerMode::Inference);
    assert_eq!(read_state(target, layer).running, state_of(case).running.filter(|_| layer.running_mean().is_some()));
    let trained = step(LayerMode::Training);
    let running = read_state(target, layer).running.unwrap_or_else(|| state_of(case).running.unwrap());
    let instances = plan.segmentation().instances() as usize;
    Results {
        output: trained.0,
        running_mean: running.mean,
        running_variance: running.variance,
        batches_tracked: case.batches_tracked.map(|_| running.batches_tracked),
        saved: gpu.read(forward.saved().buffer(), instances),
        inference: frozen.0,
        input_gradient: trained.1,
        residual_gradient: trained.2,
        gamma_gradient: trained.3,
        beta_gradient: trained.4,
        frozen_input_gradient: frozen.1,
        frozen_residual_gradient: frozen.2,
        frozen_gamma_gradient: frozen.3,
        frozen_beta_gradient: frozen.4,
        ..Results::default()
    }
}

fn layer_with(target: &Target, case: &Case, descriptor: &BatchNormLayerDescriptor) -> BatchNormLayer {
    let layer = BatchNormLayer::with_kernels(&target.kernels, descriptor).unwrap();
    layer.load_state(&target.gpu.queue, &state_of(case)).unwrap();
    layer
}

fn cases() -> Vec<Case> {
    let plain = |shape: &[usize], layout, seed| {
        let mut case = Case::random(shape, layout, seed);
        case.batches_tracked = Some(2);
        case
    };
    let mut bare = plain(&[33, 12], ChannelsFirst, 2);
    (bare.gamma, bare.beta) = (None, None);
    (bare.wants_gamma, bare.wants_beta) = (false, false);
    let mut scaled = plain(&[3, 4, 5, 7], ChannelsLast, 3);
    scaled.beta = None;
    scaled.wants_beta = false;
    scaled.convention.momentum = Momentum::CumulativeAverage;
    let mut fused = plain(&[4, 6, 5, 5], ChannelsFirst, 4).stored_as(ElementType::F16);
    fused = fused.fused(Activation::Relu, true, ActivationSource::Recompute);
    fused.returns_residual_gradient = true;
    let steps = plain(&[6, 3, 8], ChannelsLast, 5).segmented(Segments::Along(1), SegmentRunning::Separate);
    let ghosts = plain(&[6, 5, 4], ChannelsFirst, 6).segmented(Segments::SubBatches(3), SegmentRunning::InTurn);
    vec![plain(&[4, 8, 6, 6], ChannelsFirst, 1), bare, scaled, fused, steps, ghosts]
}

#[test]
fn both_modes_meet_the_reference() {
    on_every_target(|target| {
        for case in cases() {
            let got = run(target, &case, &layer_with(target, &case, &describe(&case)));
            let worst = compare(&case, &got, &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {:?} {:?}: {worst:?}", case.shape, case.layout);
        }
    });
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/layer").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A module of PyTorch, from the file of its state: what it computes in both modes, and what a step of training makes of its
/// state. `tests/vectors/README.md` tells how the files were made.
#[test]
fn a_state_of_pytorch_computes_what_pytorch_computes() {
    let (model, steps) = (golden("model.safetensors"), golden("steps.safetensors"));
    let steps = SafeTensors::deserialize(&steps).unwrap();
    let values = |name: &str| -> Option<Vec<f32>> {
        let bytes = steps.tensor(name).ok()?.data();
        Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    on_every_target(|target| {
        for prefix in ["stem.bn", "plain", "scaled", "averaged", "untracked"] {
            let state = LayerState::from_safetensors(&model, prefix).unwrap();
            let mut case = Case::random(&[4, 5, 3, 2], ChannelsFirst, 0);
            (case.input, case.output_gradient) = (values("x").unwrap(), values("dy").unwrap());
            (case.gamma, case.beta) = (state.gamma.clone(), state.beta.clone());
            (case.wants_gamma, case.wants_beta) = (state.gamma.is_some(), state.beta.is_some());
            if prefix == "averaged" {
                case.convention.momentum = Momentum::CumulativeAverage;
            }
            if let Some(running) = &state.running {
                (case.running_mean, case.running_variance) = (running.mean.clone(), running.variance.clone());
                case.batches_tracked = Some(running.batches_tracked);
            }
            let tracks = state.running.is_some();
            let descriptor = BatchNormLayerDescriptor { track_running_statistics: tracks, ..describe(&case) };
            let layer = BatchNormLayer::with_kernels(&target.kernels, &descriptor).unwrap();
            layer.load_state(&target.gpu.queue, &state).unwrap();
            let mut got = run(target, &case, &layer);
            let of = |mode: &str, result: &str| values(&format!("{prefix}.{mode}.{result}"));
            // Without beta, its gradient is not asked for and not compared.
            let vector = |mode, result| of(mode, result).unwrap_or_else(|| vec![0.0; 5]);
            let tensor = |mode, result| of(mode, result).unwrap();
            let reference = case.run_reference().unwrap();
            let mut truth = Results {
                output: tensor("train", "y"),
                input_gradient: tensor("train", "dx"),
                gamma_gradient: vector("train", "dweight"),
                beta_gradient: vector("train", "dbias"),
                inference: tensor("eval", "y"),
                frozen_input_gradient: tensor("eval", "dx"),
                frozen_gamma_gradient: vector("eval", "dweight"),
                frozen_beta_gradient: vector("eval", "dbias"),
                ..reference.clone()
            };
            if tracks {
                truth.running_mean = tensor("after", "running_mean");
                truth.running_variance = tensor("after", "running_var");
                truth.batches_tracked = Some(4);
            } else {
                for results in [&mut got, &mut truth] {
                    // In evaluation mode too, the statistics are those of the batch.
                    assert_eq!(results.inference, results.output, "{target}: {prefix}");
                    assert_eq!(results.frozen_input_gradient, results.input_gradient, "{target}: {prefix}");
                    assert_eq!(results.frozen_gamma_gradient, results.gamma_gradient, "{target}: {prefix}");
                    assert_eq!(results.frozen_beta_gradient, results.beta_gradient, "{target}: {prefix}");
                    // So there is nothing frozen, and nothing running, to compare.
                    results.inference.clone_from(&reference.inference);
                    results.frozen_input_gradient.clone_from(&reference.frozen_input_gradient);
                    results.frozen_gamma_gradient.clone_from(&reference.frozen_gamma_gradient);
                    results.frozen_beta_gradient.clone_from(&reference.frozen_beta_gradient);
                    results.running_mean.clone_from(&reference.running_mean);
                    results.running_variance.clone_from(&reference.running_variance);
                }
            }
            let worst = compare(&case, &got, &truth);
            assert!(worst.ratio <= 1.0, "{target}: {prefix}: {worst:?}");
        }
    });
}

#[test]
fn a_new_layer_starts_as_described_and_a_state_comes_back_to_the_bit() {
    on_every_target(|target| {
        let batch_norm = BatchNormDescriptor { channels: 37, ..Default::default() };
        let descriptor = BatchNormLayerDescriptor { batch_norm, ..Default::default() };
        let layer = BatchNormLayer::with_kernels(&target.kernels, &descriptor).unwrap();
        let running = RunningState { mean: vec![0.0; 37], variance: vec![1.0; 37], batches_tracked: 0 };
        let fresh = LayerState { gamma: Some(vec![1.0; 37]), beta: Some(vec![0.0; 37]), running: Some(running) };
        assert_eq!(read_state(target, &layer), fresh, "{target}");
        let descriptor = BatchNormLayerDescriptor { gamma: Some(0.0), beta: Some(-2.5), ..descriptor };
        let described = BatchNormLayer::with_kernels(&target.kernels, &descriptor).unwrap();
        let expected = LayerState { gamma: Some(vec![0.0; 37]), beta: Some(vec![-2.5; 37]), ..fresh.clone() };
        assert_eq!(read_state(target, &described), expected, "{target}");
        for gradient in [layer.gamma_gradient(), layer.beta_gradient()] {
            assert_eq!(target.gpu.read::<u32>(gradient.unwrap(), 37), [0; 37], "{target}");
        }

        let values = |seed: u32| -> Vec<f32> {
            // A NaN with a payload and a subnormal among them.
            let special = [0x7FC0_1234, 1, 0x8000_0000, 0xFF80_0000];
            let hashed = (4..37).map(|index: u32| (index + seed).wrapping_mul(2_654_435_761));
            special.into_iter().chain(hashed).map(f32::from_bits).collect()
        };
        let running = RunningState { mean: values(3), variance: values(4), batches_tracked: u32::MAX };
        let state = LayerState { gamma: Some(values(1)), beta: Some(values(2)), running: Some(running) };
        layer.load_state(&target.gpu.queue, &state).unwrap();
        let bits = |state: &LayerState| {
            let running = state.running.clone().unwrap();
            let vectors = [state.gamma.clone().unwrap(), state.beta.clone().unwrap(), running.mean, running.variance];
            (vectors.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>()), running.batches_tracked)
        };
        assert_eq!(bits(&read_state(target, &layer)), bits(&state), "{target}");
    });
}

#[test]
fn resets_bring_back_what_was_described_in_all_sets() {
    on_every_target(|target| {
        let case = Case::random(&[5, 7], ChannelsLast, 24);
        let of = |values: [f32; 4], batches_tracked| {
            let [gamma, beta, mean, variance] = values;
            let running = RunningState { mean: vec![mean; 21], variance: vec![variance; 21], batches_tracked };
            LayerState { gamma: Some(vec![gamma; 7]), beta: Some(vec![beta; 7]), running: Some(running) }
        };
        let described =
            BatchNormLayerDescriptor { gamma: Some(0.5), beta: Some(-2.0), running_sets: 3, ..describe(&case) };
        for segment_running in [SegmentRunning::InTurn, SegmentRunning::Separate] {
            let mut descriptor = described.clone();
            descriptor.batch_norm.convention.segment_running = segment_running;
            let layer = BatchNormLayer::with_kernels(&target.kernels, &descriptor).unwrap();
            let queue = &target.gpu.queue;
            layer.load_state(queue, &of([3.0; 4], 9)).unwrap();
            layer.reset_running_statistics(queue).unwrap();
            assert_eq!(read_state(target, &layer), of([3.0, 3.0, 0.0, 1.0], 0), "{target}");
            layer.load_state(queue, &of([3.0; 4], 9)).unwrap();
            layer.reset_parameters(queue).unwrap();
            assert_eq!(read_state(target, &layer), of([0.5, -2.0, 3.0, 3.0], 9), "{target}");
        }
    });
}

/// A pass that was not submitted, or a step that was forgotten, must not look like a gradient of 0.
#[test]
fn a_backward_without_its_forward_shows() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let case = Case::random(&[5, 6, 7], ChannelsFirst, 25);
        let layer = layer_with(target, &case, &describe(&case));
        let plan = layer.plan(&case.shape()).unwrap();
        let (x, dy) = (gpu.upload("x", &case.input), gpu.upload("dy", &case.output_gradient));
        let [y, dx] = ["y", "dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
        let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..))).unwrap();
        let buffers = BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
            ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
        };
        let backward = layer.bind_backward(&forward, &buffers).unwrap();
        let gradients = || (gpu.read::<f32>(&dx, case.input.len()), gpu.read(layer.gamma_gradient().unwrap(), 6));
        gpu.submit(|pass| backward.record(pass));
        let (input, gamma) = gradients();
        assert!(input.iter().chain(&gamma).all(|value| value.is_nan()), "{target}: {input:?} {gamma:?}");
        gpu.submit(|pass| {
            forward.record(pass);
            backward.record(pass);
        });
        let (input, gamma) = gradients();
        assert!(input.iter().chain(&gamma).all(|value| value.is_finite()), "{target}: {input:?} {gamma:?}");
    });
}

/// Padding and batch renormalization reach backward by way of the forward that was bound to them.
#[test]
fn a_layer_keeps_for_backward_what_its_batch_norm_is_told_twice() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let case = Case::random(&[4, 9, 6], ChannelsLast, 26);
        let layer = layer_with(target, &case, &describe(&case));
        let bn = layer.batch_norm();
        let plan = layer.plan(&case.shape()).unwrap();
        let (x, dy) = (gpu.upload("x", &case.input), gpu.upload("dy", &case.output_gradient));
        let limits = gpu.upload("limits", &[1.5_f32, 0.5]);
        let limits = limits.slice(..8);
        let lengths = gpu.upload("lengths", &[9_u32, 4, 1, 6]);
        let [valid, corrections, saved] =
            [("valid", plan.valid_size()), ("corrections", plan.renormalization_size()), ("saved", plan.saved_size())]
                .map(|(label, size)| (gpu.zeroed(label, size), size));
        let valid = valid.0.slice(..valid.1);
        let axes = SequenceAxes { sequence: 0, step: 1 };
        let source = ValidSource::Lengths { lengths: lengths.slice(..16), axes };
        let mark = bn.bind_valid(&plan, &ValidBuffers { source, valid }).unwrap();
        let [y, dx, other_y, other_dx] =
            ["y", "dx", "other y", "other dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
        let buffers = TrainingBuffers { valid: Some(valid), ..layer.training_buffers(x.slice(..), y.slice(..)) };
        let forward = layer.bind_renormalized_forward(&plan, &buffers, limits).unwrap();
        let backward = BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
            ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
        };
        let backward = layer.bind_backward(&forward, &backward).unwrap();

        // The same by the batch norm, with everything said.
        let corrections = corrections.0.slice(..corrections.1);
        let saved = saved.0.slice(..saved.1);
        let other_forward = TrainingBuffers {
            output: other_y.slice(..),
            saved: Some(saved),
            renormalization: Some(Renormalization { limits, saved: corrections }),
            ..buffers
        };
        let other_forward = bn.bind_training(&plan, &other_forward).unwrap();
        let other_backward = BackwardBuffers {
            gamma: buffers.gamma,
            beta: buffers.beta,
            saved: Some(saved),
            valid: Some(valid),
            renormalization: Some(corrections),
            input_gradient: Some(Gradient::Overwrite(other_dx.slice(..))),
            ..BackwardBuffers::new(x.slice(..), dy.slice(..), buffers.workspace)
        };
        let other_backward = bn.bind_backward(&plan, &other_backward).unwrap();
        gpu.submit(|pass| {
            mark.record(pass);
            forward.record_without_running_update(pass);
            backward.record(pass);
            other_forward.record_without_running_update(pass);
            other_backward.record(pass);
        });
        let read = |buffer| gpu.read::<u32>(buffer, case.input.len());
        assert_eq!((read(&y), read(&dx)), (read(&other_y), read(&other_dx)), "{target}");
        let dx: Vec<f32> = gpu.read(&dx, case.input.len());
        let padding = 6 * (9 + 1)..6 * (9 + 9);
        assert!(dx[6 * (9 + 4)..padding.end].iter().all(|&value| value == 0.0), "{target}: {dx:?}");
        assert!(dx.iter().all(|value| value.is_finite()) && dx[0] != 0.0, "{target}: {dx:?}");
    });
}

/// Two batches of unequal size, through one layer: the running statistics become those of all their values.
#[test]
fn a_layer_takes_the_statistics_of_a_data_set() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let [first, second] = [(5, 27), (3, 28)].map(|(rows, seed)| Case::random(&[rows, 6, 7], ChannelsFirst, seed));
        let layer = layer_with(target, &first, &describe(&first));
        let bn = layer.batch_norm();
        let moments = gpu.zeroed("moments", layer.plan(&first.shape()).unwrap().moments_size());
        let moments = moments.slice(..6 * 16);
        for case in [&first, &second] {
            let plan = layer.plan(&case.shape()).unwrap();
            let x = gpu.upload("x", &case.input);
            let y = gpu.zeroed("y", plan.tensor_size());
            let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..))).unwrap();
            let add = bn.bind_accumulate(&plan, &layer.accumulate_buffers(x.slice(..), moments)).unwrap();
            let conclude = bn.bind_population(&plan, &layer.population_buffers(moments).unwrap()).unwrap();
            gpu.submit(|pass| {
                add.record(pass);
                forward.record_without_running_update(pass);
                conclude.record(pass);
            });
        }
        let found = read_state(target, &layer).running.unwrap();
        assert_eq!(Some(found.batches_tracked), first.batches_tracked.or(Some(0)), "{target}");
        for channel in 0..6 {
            let of = |case: &Case| -> Vec<f64> {
                let rows = case.input.chunks(7).skip(channel).step_by(6);
                rows.flatten().map(|&value| f64::from(value)).collect()
            };
            let values = [of(&first), of(&second)].concat();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let variance = sum / (values.len() - 1) as f64;
            let got = [found.mean[channel], found.variance[channel]].map(f64::from);
            // As in `population`.
            let mean_error = f64::from(f32::EPSILON) * (mean.abs() + 4.0 * variance.sqrt());
            assert!((got[0] - mean).abs() <= mean_error, "{target}: {got:?} {mean}");
            let error = (got[1] - variance).abs() / variance;
            assert!(error <= 24.0 * f64::from(f32::EPSILON), "{target}: {got:?} {variance}");
        }
    });
}

#[test]
fn backward_goes_the_way_that_its_forward_went() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let case = Case::random(&[5, 6, 7], ChannelsFirst, 8);
        let truth = case.run_reference().unwrap();
        let layer = layer_with(target, &case, &describe(&case));
        let plan = layer.plan(&case.shape()).unwrap();
        let (x, dy) = (gpu.upload("x", &case.input), gpu.upload("dy", &case.output_gradient));
        let [y, dx] = ["y", "dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
        let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..))).unwrap();
        let buffers = BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
            ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
        };
        let backward = layer.bind_backward(&forward, &buffers).unwrap();
        let close = |got: &[f32], truth: &[f32], far: &[f32]| {
            let distance = |other: &[f32]| got.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The two modes differ by more than any rounding.
            assert!(distance(far) > 1e-2, "{target}: the modes do not differ");
            distance(truth) < 1e-4
        };
        let (trained, frozen) = (&truth.input_gradient, &truth.frozen_input_gradient);
        let gradient = || gpu.read::<f32>(&dx, case.input.len());

        // The layer is switched between forward and backward.
        gpu.submit(|pass| {
            forward.record_without_running_update(pass);
            layer.eval();
            backward.record(pass);
        });
        assert!(close(&gradient(), trained, frozen), "{target}");
        gpu.submit(|pass| {
            forward.record(pass);
            layer.train();
            backward.record(pass);
        });
        assert!(close(&gradient(), frozen, trained), "{target}");
        assert!(close(&gpu.read::<f32>(&y, case.input.len()), &truth.inference, &truth.output), "{target}");
        // Neither has updated anything.
        assert_eq!(read_state(target, &layer), state_of(&case), "{target}");
        // By the caller's word, whatever the layer's mode is.
        gpu.submit(|pass| {
            forward.record_as(pass, LayerMode::Inference);
            backward.record_as(pass, LayerMode::Inference);
        });
        assert!(close(&gradient(), frozen, trained), "{target}");
        gpu.submit(|pass| {
            forward.record(pass);
            backward.record(pass);
        });
        assert!(close(&gradient(), trained, frozen), "{target}");
        assert_eq!(read_state(target, &layer).running.unwrap().batches_tracked, 1, "{target}");
    });
}

/// A layer that occurs twice in a network: the second forward must not take from the first what its backward needs, nor a
/// larger shape the workspace of steps that are bound.
#[test]
fn a_layer_used_twice_has_two_backwards() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let first = Case::random(&[5, 6, 7], ChannelsFirst, 9);
        let mut second = Case::random(&[32, 6, 4096], ChannelsFirst, 10);
        (second.gamma, second.beta) = (first.gamma.clone(), first.beta.clone());
        let layer = layer_with(target, &first, &describe(&first));
        let bind = |layer: &BatchNormLayer, case: &Case| {
            let plan = layer.plan(&Shape::new(&case.shape).unwrap()).unwrap();
            let (x, dy) = (gpu.upload("x", &case.input), gpu.upload("dy", &case.output_gradient));
            let [y, dx] = ["y", "dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
            let [gamma, beta] = ["dgamma", "dbeta"].map(|label| gpu.zeroed(label, plan.vector_size()));
            let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..))).unwrap();
            let buffers = BackwardBuffers {
                input_gradient: Some(Gradient::Overwrite(dx.slice(..))),
                gamma_gradient: Some(Gradient::Overwrite(gamma.slice(..plan.vector_size()))),
                beta_gradient: Some(Gradient::Overwrite(beta.slice(..plan.vector_size()))),
                ..layer.backward_buffers(&forward, x.slice(..), dy.slice(..))
            };
            let backward = layer.bind_backward(&forward, &buffers).unwrap();
            (forward, backward, [y, dx, gamma, beta])
        };
        let before = layer.workspace().size();
        let (forward, backward, results) = bind(&layer, &first);
        let between = layer.workspace().size();
        let (other_forward, other_backward, other_results) = bind(&layer, &second);
        assert!(before < between && between < layer.workspace().size(), "{target}: the workspace grew");
        gpu.submit(|pass| {
            forward.record_without_running_update(pass);
            other_forward.record_without_running_update(pass);
            other_backward.record(pass);
            backward.record(pass);
        });
        for (case, results) in [(&first, &results), (&second, &other_results)] {
            let truth = case.run_reference().unwrap();
            let read = |index: usize, count| gpu.read::<f32>(&results[index], count);
            let got = Results {
                output: read(0, case.input.len()),
                input_gradient: read(1, case.input.len()),
                gamma_gradient: read(2, 6),
                beta_gradient: read(3, 6),
                ..truth.clone()
            };
            let worst = compare(case, &got, &truth);
            assert!(worst.ratio <= 1.0, "{target}: {:?}: {worst:?}", case.shape);
        }
    });
}

/// Micro-batches: the gradients of two batches add up, whether the first one overwrites or all are added to zeros.
#[test]
fn gradients_of_parameters_add_up_over_micro_batches() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let [first, second] = [11, 12].map(|seed| Case::random(&[5, 6, 7], ChannelsFirst, seed));
        let layer = layer_with(target, &first, &describe(&first));
        let plan = layer.plan(&first.shape()).unwrap();
        let y = gpu.zeroed("y", plan.tensor_size());
        let gradients = || -> Vec<f32> {
            let both = [layer.gamma_gradient(), layer.beta_gradient()];
            both.into_iter().flat_map(|buffer| gpu.read::<f32>(buffer.unwrap(), 6)).collect()
        };
        let bound = [first, second].map(|case| {
            let (x, dy) = (gpu.upload("x", &case.input), gpu.upload("dy", &case.output_gradient));
            let forward = layer.bind_forward(&plan, &layer.training_buffers(x.slice(..), y.slice(..))).unwrap();
            let buffers = layer.backward_buffers(&forward, x.slice(..), dy.slice(..));
            let backward = layer.bind_backward(&forward, &buffers).unwrap();
            let adding = layer.bind_backward(&forward, &buffers.accumulating_parameters()).unwrap();
            (forward, backward, adding)
        });
        let [one, two] = bound.each_ref().map(|(forward, backward, _)| {
            gpu.submit(|pass| {
                forward.record(pass);
                backward.record(pass);
            });
            gradients()
        });
        let sum: Vec<f32> = one.iter().zip(&two).map(|(one, two)| one + two).collect();
        assert!(one.iter().chain(&two).all(|&value| value != 0.0), "{target}: {one:?} {two:?}");

        gpu.submit(|pass| {
            bound[0].1.record(pass);
            bound[1].2.record(pass);
        });
        assert_eq!(gradients(), sum, "{target}");
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        layer.clear_gradients(&mut encoder);
        gpu.queue.submit([encoder.finish()]);
        assert_eq!(gradients(), [0.0; 12], "{target}");
        gpu.submit(|pass| bound.iter().for_each(|(.., adding)| adding.record(pass)));
        assert_eq!(gradients(), sum, "{target}");
    });
}

/// The steps of a recurrent network: one gamma and beta, statistics of their own, channels of no multiple of anything.
#[test]
fn each_set_of_running_statistics_is_updated_by_itself() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let cases = [21, 22, 23].map(|seed| Case::random(&[5, 7], ChannelsLast, seed));
        let descriptor = BatchNormLayerDescriptor { running_sets: 3, ..describe(&cases[0]) };
        let layer = BatchNormLayer::with_kernels(&target.kernels, &descriptor).unwrap();
        let all = |part: fn(&Case) -> &Vec<f32>| cases.iter().flat_map(part).copied().collect::<Vec<_>>();
        let (mean, variance) = (all(|case| &case.running_mean), all(|case| &case.running_variance));
        let running = RunningState { mean, variance, batches_tracked: 0 };
        let state = LayerState { running: Some(running), ..state_of(&cases[0]) };
        layer.load_state(&gpu.queue, &state).unwrap();
        assert_eq!(read_state(target, &layer), state, "{target}");

        let plan = layer.plan(&cases[0].shape()).unwrap();
        let y = gpu.zeroed("y", plan.tensor_size());
        for (set, case) in (0..).zip(&cases) {
            let x = gpu.upload("x", &case.input);
            let own = layer.training_buffers(x.slice(..), y.slice(..plan.tensor_size()));
            let buffers = TrainingBuffers { running: layer.running_set(set), ..own };
            let forward = layer.bind_forward(&plan, &buffers).unwrap();
            gpu.submit(|pass| forward.record(pass));
        }
        let got = read_state(target, &layer).running.unwrap();
        assert_eq!(got.batches_tracked, 1, "{target}: counted with the first set");
        for (set, case) in cases.iter().enumerate() {
            let truth = case.run_reference().unwrap();
            let pairs = [(&got.mean, &truth.running_mean), (&got.variance, &truth.running_variance)];
            for (got, truth) in pairs {
                let close = |(got, truth): (&f32, &f32)| (got - truth).abs() <= 1e-5 * truth.abs().max(1.0);
                let got = &got[7 * set..7 * (set + 1)];
                assert!(got.iter().zip(truth).all(close), "{target}, set {set}: {got:?} {truth:?}");
            }
        }
    });
}
