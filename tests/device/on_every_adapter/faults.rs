//! Channels that went wrong: the guard of running statistics, and the health report.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::common::case::{Case, Padding, Segments};
use crate::common::{Target, on_every_target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    Activation, BatchNorm, ChannelHealth, Convention, Momentum, NonFinitePolicy, OneSamplePolicy, RunningStatistics,
    SegmentRunning, Shape, Strategies, Strategy, TrainingBuffers,
};

use super::strategies_of;

const NAN: usize = 1;
const INFINITE: usize = 2;
const NEGATIVE_INFINITE: usize = 5;
const CONSTANT: usize = 7;
/// Finite values whose squares are not.
const OVERFLOWING: usize = 38;
const FAULTY: [usize; 4] = [NAN, INFINITE, NEGATIVE_INFINITE, OVERFLOWING];

struct Trained {
    mean: Vec<f32>,
    variance: Vec<f32>,
    tracked: u32,
    health: Vec<ChannelHealth>,
}

/// Training alone: what is not under test need not be compiled.
fn train(target: &Target, case: &Case, strategies: Strategies) -> Trained {
    let gpu = &target.gpu;
    let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
    let plan = bn.plan_with(&Shape::new(&case.shape).unwrap(), strategies).unwrap();
    let (input, output) = (gpu.upload("input", &case.input), gpu.zeroed("output", plan.tensor_size()));
    let [mean, variance] = [&case.running_mean, &case.running_variance].map(|values| gpu.upload("running", values));
    let tracked = gpu.upload("tracked", &[case.batches_tracked.unwrap_or(0)]);
    let health = gpu.upload("health", &vec![!0_u32; case.channels()]);
    let workspace = gpu.zeroed("workspace", plan.workspace_size());
    let (tensor, vector) = (..plan.tensor_size(), ..plan.vector_size());
    let step = bn
        .bind_training(
            &plan,
            &TrainingBuffers {
                running: Some(RunningStatistics {
                    mean: mean.slice(vector),
                    variance: variance.slice(vector),
                    batches_tracked: Some(tracked.slice(..4)),
                }),
                health: Some(health.slice(..plan.health_size())),
                ..TrainingBuffers::new(input.slice(tensor), output.slice(tensor), workspace.slice(..))
            },
        )
        .unwrap();
    gpu.submit(|pass| step.record(pass));
    Trained {
        mean: gpu.read(&mean, case.channels()),
        variance: gpu.read(&variance, case.channels()),
        tracked: gpu.read(&tracked, 1)[0],
        health: gpu.read(&health, case.channels()),
    }
}

/// A healthy batch but for a constant channel, and the same with a fault in some channels.
fn healthy_and_faulty(shape: &[usize]) -> (Case, Case) {
    let mut healthy = Case::random(shape, ChannelsFirst, 11);
    healthy.batches_tracked = Some(3);
    for index in 0..healthy.input.len() {
        if healthy.channel(index) == CONSTANT {
            healthy.input[index] = 0.3;
        }
    }
    let mut faulty = healthy.clone();
    for (channel, value) in [(NAN, f32::NAN), (INFINITE, f32::INFINITY), (NEGATIVE_INFINITE, f32::NEG_INFINITY)] {
        let place = (0..faulty.input.len()).rfind(|&index| faulty.channel(index) == channel).unwrap();
        faulty.input[place] = value;
    }
    for index in 0..faulty.input.len() {
        if faulty.channel(index) == OVERFLOWING {
            faulty.input[index] *= 1e25;
        }
    }
    (healthy, faulty)
}

fn each_strategy(check: impl Fn(&Target, Strategies, &Case, &Case) + Sync) {
    let seen = Mutex::new(HashSet::new());
    // Short rows, which every strategy serves but one and quads, long ones, and rows that share units.
    for shape in [&[6, 40, 4, 4][..], &[2, 40, 32], &[3, 40, 15]] {
        let (healthy, faulty) = healthy_and_faulty(shape);
        on_every_target(|target| {
            let pins = strategies_of(target, &healthy).into_iter().map(|pin| pin.training);
            for training in pins.collect::<HashSet<_>>() {
                check(target, Strategies { training, ..Strategies::default() }, &healthy, &faulty);
                seen.lock().unwrap().extend(training);
            }
        });
    }
    let seen = seen.into_inner().unwrap();
    assert!(Strategy::ALL.iter().all(|strategy| seen.contains(strategy)), "not every strategy served: {seen:?}");
}

#[test]
fn a_guard_keeps_faulty_batches_out_of_running_statistics_of_their_channels_alone() {
    each_strategy(|target, strategies, healthy, faulty| {
        for momentum in [Momentum::WeightOfNew(0.1), Momentum::CumulativeAverage] {
            let with = |case: &Case, non_finite| {
                let convention = Convention { momentum, non_finite, ..Convention::pytorch() };
                train(target, &Case { convention, ..case.clone() }, strategies)
            };
            let clean = with(healthy, NonFinitePolicy::Update);
            let guarded = with(faulty, NonFinitePolicy::SkipRunningUpdate);
            let unguarded = with(faulty, NonFinitePolicy::Update);
            let place = format!("{target}: {strategies:?} {momentum:?}");
            // The batch is counted all the same.
            assert_eq!([clean.tracked, guarded.tracked, unguarded.tracked], [4; 3], "{place}");
            for channel in 0..healthy.channels() {
                let of = |trained: &Trained| [trained.mean[channel], trained.variance[channel]].map(f32::to_bits);
                let before = [healthy.running_mean[channel], healthy.running_variance[channel]].map(f32::to_bits);
                assert_ne!(of(&clean), before, "{place}: channel {channel} of a healthy batch is updated");
                if FAULTY.contains(&channel) {
                    assert_eq!(of(&guarded), before, "{place}: channel {channel} stays");
                    assert!(!unguarded.variance[channel].is_finite(), "{place}: channel {channel} without a guard");
                    let mean_is_finite = unguarded.mean[channel].is_finite();
                    assert_eq!(mean_is_finite, channel == OVERFLOWING, "{place}: mean of channel {channel}");
                } else {
                    assert_eq!(of(&guarded), of(&clean), "{place}: channel {channel} is none of the faulty ones");
                    assert_eq!(of(&unguarded), of(&clean), "{place}: channel {channel} is none of the faulty ones");
                }
            }
        }
    });
}

#[test]
fn health_names_channels_that_are_not_finite_and_channels_that_are_constant() {
    each_strategy(|target, strategies, healthy, faulty| {
        for case in [healthy, faulty] {
            let health = train(target, case, strategies).health;
            for (channel, health) in health.into_iter().enumerate() {
                let expected = match channel {
                    CONSTANT => ChannelHealth::ZERO_VARIANCE,
                    _ if FAULTY.contains(&channel) && std::ptr::eq(case, faulty) => ChannelHealth::NON_FINITE,
                    _ => 0,
                };
                assert_eq!(health, ChannelHealth(expected), "{target}: {strategies:?}: channel {channel}");
                assert_eq!(health.is_finite(), expected != ChannelHealth::NON_FINITE);
                assert_eq!(health.is_constant(), channel == CONSTANT);
            }
        }
    });
}

#[test]
fn a_nan_and_an_infinite_preactivation_go_through_smooth_activations_as_through_the_reference() {
    // One element a channel is out of the ordinary, through frozen statistics, which it does not change.
    let odd = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -1e38, 1e38];
    on_every_target(|target| {
        // The plans of one class will do.
        if target.plan > 0 {
            return;
        }
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let mut case = Case::random(&[2, odd.len(), 4], ChannelsFirst, 9);
            case.trains = false;
            case.activation = activation;
            case.gamma = None;
            case.beta = None;
            case.running_mean.fill(0.0);
            case.running_variance.fill(1.0);
            let places: Vec<_> = (0..odd.len()).map(|channel| 4 * channel + 1).collect();
            for (&place, value) in places.iter().zip(odd) {
                case.input[place] = value;
            }
            let (truth, got) = (case.run_reference().unwrap(), case.run_device(target).unwrap());
            for (&place, value) in places.iter().zip(odd) {
                for (name, got, truth) in [
                    ("y", got.inference[place], truth.inference[place]),
                    ("dx", got.frozen_input_gradient[place], truth.frozen_input_gradient[place]),
                ] {
                    let near = (got - truth).abs() <= 1e-5 * truth.abs().max(1.0);
                    let same = got == truth || (got.is_nan() && truth.is_nan()) || near;
                    assert!(same, "{target}: {activation} at {value}: {name} = {got}, truth {truth}");
                }
            }
        }
    });
}

/// A batch in segments or not, padded or not, renormalised or not, with a fault in some instances.
fn arbitrary_faults(seed: u64) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let (shape, layout, step) =
        [(&[8, 6, 4][..], ChannelsFirst, 2), (&[8, 4, 6], ChannelsLast, 1)][rng.random_range(0..2)];
    let segments = [Segments::Batch, Segments::SubBatches(4), Segments::Along(step)][rng.random_range(0..3)];
    let running = [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate][rng.random_range(0..3)];
    let mut case = Case::random(shape, layout, seed).segmented(segments, running);
    case.convention.non_finite = [NonFinitePolicy::SkipRunningUpdate, NonFinitePolicy::Update][rng.random_range(0..2)];
    case.convention.one_sample =
        [OneSamplePolicy::PopulationVariance, OneSamplePolicy::SkipRunningUpdate][rng.random_range(0..2)];
    if rng.random_bool(0.4) {
        case.convention.momentum = Momentum::CumulativeAverage;
    }
    case.batches_tracked = Some(rng.random_range(0..3));
    case.reports_health = true;
    case.padding = rng.random_bool(0.4).then(|| Padding::Flags((0..32).map(|_| rng.random_bool(0.5)).collect()));
    case.renormalization = rng.random_bool(0.3).then_some([2.0, 1.0]);
    let (segmentation, valid) = (case.segmentation(), case.valid_elements());
    for instance in 0..segmentation.instances() {
        let of_instance = |&element: &usize| valid[element] && segmentation.instance_of(element as u64) == instance;
        let elements: Vec<_> = (0..valid.len()).filter(of_instance).collect();
        let Some(&one) = elements.get(rng.random_range(0..elements.len().max(1))) else { continue };
        match rng.random_range(0..12) {
            0 => case.input[one] = f32::NAN,
            1 => case.input[one] = f32::INFINITY,
            2 => elements.iter().for_each(|&element| case.input[element] = 0.7),
            3 => elements.iter().for_each(|&element| case.input[element] *= 1e25),
            _ => {}
        }
    }
    case
}

#[test]
fn faults_of_segments_beside_padding_and_renormalization_are_told_and_kept_out_as_by_the_reference() {
    on_every_target(|target| {
        let (mut kept_out, mut let_in, mut constant) = (0, 0, 0);
        for seed in 0..150 {
            let case = arbitrary_faults(seed);
            let (got, truth) = (case.run_device(target).unwrap(), case.run_reference().unwrap());
            let place = format!("{target}: seed {seed} {:?} {:?}", case.segments, case.convention);
            assert_eq!(got.health, truth.health, "{place}");
            assert_eq!(got.batches_tracked, truth.batches_tracked, "{place}");
            for (name, got, truth) in [
                ("mean", &got.running_mean, &truth.running_mean),
                ("variance", &got.running_variance, &truth.running_variance),
            ] {
                for (index, (got, truth)) in got.iter().zip(truth).enumerate() {
                    // Which of them is not portable where a value is not finite; digits are what other tests are for.
                    let alike = !truth.is_finite() && !got.is_finite();
                    let near = (got - truth).abs() <= 1e-4 * truth.abs().max(1e-3);
                    assert!(alike || near, "{place}: {name}[{index}] = {got}, truth {truth}");
                }
            }
            let faulty = truth.health.iter().any(|health| !health.is_finite());
            let guarded = case.convention.non_finite == NonFinitePolicy::SkipRunningUpdate;
            kept_out += usize::from(faulty && guarded);
            let_in += usize::from(truth.running_variance.iter().any(|variance| !variance.is_finite()));
            constant += truth.health.iter().filter(|health| health.is_constant()).count();
        }
        assert!(kept_out > 20 && let_in > 20 && constant > 20, "{kept_out} {let_in} {constant}");
    });
}
