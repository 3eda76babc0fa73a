//! Channels at the ends of f32, in every operation and structure: NaN, infinities, values near the largest, subnormal ones, and
//! constant channels without an epsilon. None has an effect on another channel, and what comes out is finite where the reference
//! is, and there right.

use super::folding::{fold_on_device, fold_on_reference};
use crate::common::case::{Case, Padding, Results, Segments};
use crate::common::from_output::device_from_output;
use crate::common::parts::run_devices_in_parts;
use crate::common::tolerance::of_subnormal_gamma_gradient;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{Activation, ActivationSource, ElementType, SegmentRunning, Strategies};

const NAN: usize = 1;
const INFINITE: usize = 2;
const NEGATIVE_INFINITE: usize = 3;
/// Its squares are beyond f32.
const LARGEST: usize = 4;
const CONSTANT: usize = 5;
/// In f32; a driver may take all of them for 0.
const SUBNORMAL: usize = 6;
const ODD: std::ops::RangeInclusive<usize> = NAN..=SUBNORMAL;
const CHANNELS: usize = 9;

/// How a batch is laid out and cut.
#[derive(Clone, Copy, Debug)]
enum Structure {
    Plain(Layout),
    Windows(Layout),
    Segments,
    Padding,
    Parts,
    Fused,
    Half,
}

const STRUCTURES: [Structure; 9] = [
    Structure::Plain(ChannelsFirst),
    Structure::Plain(ChannelsLast),
    Structure::Windows(ChannelsFirst),
    Structure::Windows(ChannelsLast),
    Structure::Segments,
    Structure::Padding,
    Structure::Parts,
    Structure::Fused,
    Structure::Half,
];

fn clean(structure: Structure, epsilon: f64) -> Case {
    let (shape, layout) = match structure {
        Structure::Plain(ChannelsLast) | Structure::Windows(ChannelsLast) => ([6, 20, CHANNELS], ChannelsLast),
        _ => ([6, CHANNELS, 20], ChannelsFirst),
    };
    let mut case = Case::random(&shape, layout, 21);
    match structure {
        Structure::Segments => case = case.segmented(Segments::SubBatches(2), SegmentRunning::InTurn),
        Structure::Padding => case.padding = Some(Padding::Flags((0..120).map(|at| at % 7 != 3).collect())),
        Structure::Fused => {
            case = case.fused(Activation::LeakyRelu { slope: 0.25 }, true, ActivationSource::Output);
        }
        Structure::Half => case = case.stored_as(ElementType::F16),
        Structure::Plain(_) | Structure::Windows(_) | Structure::Parts => {}
    }
    case.convention.epsilon = epsilon;
    case
}

/// The same with channels that are out of the ordinary.
fn odd(clean: &Case) -> Case {
    let mut case = clean.clone();
    let largest = if case.element == ElementType::F16 { 65_504.0 } else { f32::MAX };
    let mut seen = [0; CHANNELS];
    for index in 0..case.input.len() {
        let channel = case.channel(index);
        let at = seen[channel];
        seen[channel] += 1;
        let x = &mut case.input[index];
        *x = match channel {
            NAN if at == 4 => f32::NAN,
            INFINITE if at == 5 => f32::INFINITY,
            NEGATIVE_INFINITE => f32::NEG_INFINITY,
            LARGEST => [largest, -largest, 0.97 * largest][at % 3],
            CONSTANT => 0.25,
            SUBNORMAL => 1e-41 * (at % 5) as f32,
            _ => *x,
        };
    }
    if case.element == ElementType::F16 {
        case = case.stored_as(ElementType::F16);
    }
    case
}

fn run(target: &Target, structure: Structure, case: &Case, truth: &Results) -> Results {
    match structure {
        Structure::Windows(_) => case.run_device(&target.in_windows(1 << 10)),
        Structure::Parts => run_devices_in_parts(case, &[2, 0, 1, 3], &[target], truth),
        _ => case.run_device(target),
    }
    .unwrap()
}

/// Names, values, and whether they are tensors.
fn all(results: &Results) -> [(&'static str, &[f32], bool); 11] {
    [
        ("output", &results.output, true),
        ("inference", &results.inference, true),
        ("input_gradient", &results.input_gradient, true),
        ("frozen_input_gradient", &results.frozen_input_gradient, true),
        ("residual_gradient", &results.residual_gradient, true),
        ("running_mean", &results.running_mean, false),
        ("running_variance", &results.running_variance, false),
        ("gamma_gradient", &results.gamma_gradient, false),
        ("beta_gradient", &results.beta_gradient, false),
        ("frozen_gamma_gradient", &results.frozen_gamma_gradient, false),
        ("frozen_beta_gradient", &results.frozen_beta_gradient, false),
    ]
}

/// Pipelines take long on software drivers, so each plan of an adapter takes a part of the structures.
fn structures_of(target: &Target) -> impl Iterator<Item = Structure> {
    STRUCTURES.into_iter().skip(target.plan).step_by(target.plans)
}

#[test]
fn odd_channels_have_no_effect_on_others_in_any_operation() {
    on_every_target(|target| {
        for structure in structures_of(target) {
            for epsilon in [1e-5, 0.0] {
                let clean = clean(structure, epsilon);
                let odd = odd(&clean);
                let [got, expected] =
                    [&odd, &clean].map(|case| run(target, structure, case, &case.run_reference().unwrap()));
                let mut compared = 0;
                for ((name, got, tensor), (_, expected, _)) in all(&got).into_iter().zip(all(&expected)) {
                    assert_eq!(got.len(), expected.len());
                    for index in 0..got.len() {
                        let channel = if tensor { clean.channel(index) } else { index % CHANNELS };
                        if !ODD.contains(&channel) {
                            let same = got[index].to_bits() == expected[index].to_bits();
                            assert!(same, "{target}: {structure:?} epsilon {epsilon}: {name}[{index}]");
                            compared += 1;
                        }
                    }
                }
                assert!(compared > 1000, "{compared}");
            }
        }
    });
}

/// Whether a result follows from the squares of the batch, or from sums of x̂ where that is as large as x.
fn has_squares(name: &str) -> bool {
    let of_batch = ["output", "input_gradient", "gamma_gradient", "running_mean", "running_variance"];
    of_batch.contains(&name) || name == "frozen_gamma_gradient"
}

#[test]
fn odd_channels_are_finite_where_the_reference_is_and_right_there() {
    on_every_target(|target| {
        for structure in structures_of(target) {
            let case = odd(&clean(structure, 1e-5));
            let truth = case.run_reference().unwrap();
            let got = run(target, structure, &case, &truth);
            let mut infinite = 0;
            // Where squares leave f32, the reference, in f64, goes on.
            let overflows = |channel| channel == LARGEST && case.element == ElementType::F32;
            for saved in got.saved.iter().skip(LARGEST).step_by(CHANNELS).filter(|_| overflows(LARGEST)) {
                assert!(!saved.variance.is_finite(), "{target}: {structure:?}: {saved:?}");
            }
            let beta = case.beta.as_ref().unwrap()[LARGEST];
            for ((name, got, tensor), (_, truth, _)) in all(&got).into_iter().zip(all(&truth)) {
                for index in 0..got.len() {
                    let channel = if tensor { case.channel(index) } else { index % CHANNELS };
                    let (got, truth) = (got[index], truth[index]);
                    let place = format!("{target}: {structure:?}: {name}[{index}] of channel {channel}");
                    // An activation has a slope for a y that is NaN.
                    let by_slope = ["beta_gradient", "residual_gradient"].contains(&name);
                    if overflows(channel) && by_slope && matches!(structure, Structure::Fused) {
                        continue;
                    }
                    if overflows(channel) && has_squares(name) {
                        let is_padding = tensor && got == truth;
                        let has_no_scale =
                            (name == "output" && got == beta) || (name == "input_gradient" && got == 0.0);
                        assert!(!got.is_finite() || is_padding || has_no_scale, "{place} = {got}, truth {truth}");
                        continue;
                    }
                    // Which of them is not portable.
                    assert_eq!(got.is_finite(), truth.is_finite(), "{place} = {got}, truth {truth}");
                    infinite += usize::from(!truth.is_finite());
                    let tolerance = if case.element == ElementType::F16 { 2e-3 } else { 1e-4 };
                    let near = (got - truth).abs() <= tolerance * truth.abs().max(1.0);
                    assert!(near || !truth.is_finite(), "{place} = {got}, truth {truth}");
                    if channel == SUBNORMAL && name == "gamma_gradient" {
                        let allowed = of_subnormal_gamma_gradient(&case, SUBNORMAL);
                        assert!(f64::from((got - truth).abs()) <= allowed, "{place} = {got:e}, truth {truth:e}");
                        assert!(allowed < 1e-34, "{place}: {allowed:e}");
                    }
                }
            }
            assert!(infinite > 100, "{structure:?}: {infinite}");
        }
    });
}

#[test]
fn constant_channels_without_epsilon_give_beta_and_no_gradients_in_every_structure() {
    on_every_target(|target| {
        for structure in structures_of(target) {
            let mut case = clean(structure, 0.0);
            case.residual = None;
            for index in 0..case.input.len() {
                let channel = case.channel(index);
                if channel == CONSTANT {
                    case.input[index] = 0.25;
                }
            }
            let got = run(target, structure, &case, &case.run_reference().unwrap());
            let valid = case.valid_elements();
            let beta = case.beta.as_ref().unwrap()[CONSTANT];
            let beta = if beta < 0.0 && matches!(structure, Structure::Fused) { 0.25 * beta } else { beta };
            let beta = crate::common::case::rounded(case.element, beta);
            let mut compared = 0;
            for index in (0..valid.len()).filter(|&index| case.channel(index) == CONSTANT && valid[index]) {
                assert_eq!(got.output[index], beta, "{target}: {structure:?}: output[{index}]");
                assert_eq!(got.input_gradient[index], 0.0, "{target}: {structure:?}: input_gradient[{index}]");
                compared += 1;
            }
            assert!(compared > 80, "{compared}");
            assert_eq!(got.gamma_gradient[CONSTANT], 0.0, "{target}: {structure:?}");
            for saved in got.saved.iter().skip(CONSTANT).step_by(CHANNELS) {
                let found = (saved.mean(), saved.variance, saved.inverse_deviation);
                assert_eq!(found, (0.25, 0.0, 0.0), "{target}: {structure:?}");
            }
        }
    });
}

#[test]
fn odd_channels_have_no_effect_on_others_in_backward_from_the_output_and_in_folding() {
    on_every_target(|target| {
        // The plans of one class will do.
        if target.plan > 0 {
            return;
        }
        let clean = clean(Structure::Plain(ChannelsFirst), 1e-5);
        let odd_case = odd(&clean);
        let [(got_kept, got), (expected_kept, expected)] =
            [&odd_case, &clean].map(|case| device_from_output(case, target, Strategies::default()).unwrap());
        let others = |index: usize, tensor: bool| !ODD.contains(&if tensor { clean.channel(index) } else { index });
        for (name, got, expected, tensor) in [
            ("output", &got_kept.output, &expected_kept.output, true),
            ("input", &got.input, &expected.input, true),
            ("gamma", &got.gamma, &expected.gamma, false),
            ("beta", &got.beta, &expected.beta, false),
        ] {
            for index in (0..got.len()).filter(|&index| others(index, tensor)) {
                assert_eq!(got[index].to_bits(), expected[index].to_bits(), "{target}: {name}[{index}]");
            }
        }

        // Recorded statistics at the ends of f32, folded into finite weights.
        let mut fold = clean.clone();
        for (channel, mean, variance) in [
            (NAN, f32::NAN, 1.0),
            (INFINITE, f32::INFINITY, 1.0),
            (NEGATIVE_INFINITE, f32::NEG_INFINITY, f32::INFINITY),
            (LARGEST, f32::MAX, f32::MAX),
            (CONSTANT, 0.25, 0.0),
            (SUBNORMAL, 1e-41, 1e-41),
        ] {
            (fold.running_mean[channel], fold.running_variance[channel]) = (mean, variance);
        }
        let (weight, bias) = fold_on_device(target, &fold, None).unwrap();
        let (clean_weight, clean_bias) = fold_on_device(target, &clean, None).unwrap();
        let (truth_weight, truth_bias) = fold_on_reference(&fold, None).unwrap();
        for (name, got, clean, truth, tensor) in
            [("weight", &weight, &clean_weight, &truth_weight, true), ("bias", &bias, &clean_bias, &truth_bias, false)]
        {
            for index in 0..got.len() {
                let (got, clean, truth) = (got[index], clean[index], truth[index]);
                if others(index, tensor) {
                    assert_eq!(got.to_bits(), clean.to_bits(), "{target}: folded {name}[{index}]");
                }
                assert_eq!(got.is_finite(), truth.is_finite(), "{target}: folded {name}[{index}] = {got}, {truth}");
                let near = (got - truth).abs() <= 1e-5 * truth.abs().max(1e-3);
                assert!(near || !truth.is_finite(), "{target}: folded {name}[{index}] = {got}, truth {truth}");
            }
        }
    });
}
