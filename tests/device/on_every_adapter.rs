//! Devices against the reference: every operation, on every adapter of the machine.

mod activation_mask;
mod activations;
#[cfg(target_os = "linux")]
mod compiler;
mod determinism;
mod double_words;
mod element_types;
mod error_study;
mod exchange;
mod extremes;
mod failures_of_others;
mod faults;
mod folding;
mod in_place;
mod layer;
mod limits;
mod lost_devices;
#[cfg(target_os = "linux")]
mod memory;
mod output_backward;
mod padding;
mod parts;
mod pooled;
mod population;
mod quads;
mod renormalization;
mod resident;
mod segments;
mod sizes;
mod spans;
mod threads;
mod windows;

use std::sync::Mutex;

use crate::common::case::{Case, POISON, Results, Segments};
use crate::common::memory::GUARD;
use crate::common::tolerance::{Worst, compare};
use crate::common::{Target, on_every_target, on_every_target_and_in_windows};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    AdapterClass, BackwardBuffers, BatchNorm, Convention, ElementType, Error, Family, Gradient, Momentum, Operation,
    Plan, RunningStatistics, ShaderChecks, Shape, Strategies, Strategy, TrainingBuffers,
};

/// Shapes that reach every kernel: both families, both accesses, one and many splits, cut-off super-rows and units.
const SHAPES: [(&[usize], Layout); 47] = [
    (&[2, 1], ChannelsFirst),
    (&[3, 1], ChannelsFirst),
    (&[5, 3], ChannelsFirst),
    (&[4, 4], ChannelsLast),
    (&[60, 100], ChannelsFirst),
    (&[257, 31], ChannelsFirst),
    (&[1024, 512], ChannelsFirst),
    (&[4099, 5], ChannelsFirst),
    // On software drivers, more than caches hold: its workgroups keep in step.
    (&[4099, 131], ChannelsFirst),
    (&[100_003, 1], ChannelsFirst),
    (&[2, 2048], ChannelsFirst),
    (&[3, 100_000], ChannelsFirst),
    (&[2, 3, 2], ChannelsFirst),
    (&[7, 5, 3], ChannelsFirst),
    (&[7, 3, 5], ChannelsLast),
    (&[1, 3, 13], ChannelsFirst),
    (&[9, 2, 13], ChannelsFirst),
    (&[33, 6, 15], ChannelsFirst),
    (&[33, 6, 16], ChannelsFirst),
    (&[33, 6, 17], ChannelsFirst),
    (&[1, 1, 1_000_003], ChannelsFirst),
    (&[1, 1, 1_000_004], ChannelsFirst),
    (&[1, 3, 63], ChannelsFirst),
    (&[1, 3, 64], ChannelsFirst),
    (&[1, 3, 65], ChannelsFirst),
    (&[3, 3, 64], ChannelsFirst),
    (&[8, 16, 7, 7], ChannelsFirst),
    (&[8, 7, 7, 16], ChannelsLast),
    (&[1, 2048, 7, 7], ChannelsFirst),
    (&[1, 7, 7, 2048], ChannelsLast),
    (&[3, 64, 14, 14], ChannelsFirst),
    (&[3, 14, 14, 64], ChannelsLast),
    (&[4, 8, 56, 56], ChannelsFirst),
    (&[4, 56, 56, 8], ChannelsLast),
    (&[2, 3, 224, 224], ChannelsFirst),
    (&[2, 224, 224, 3], ChannelsLast),
    (&[2, 1, 33, 31], ChannelsFirst),
    (&[2, 33, 31, 1], ChannelsLast),
    (&[16, 32, 8, 8], ChannelsFirst),
    (&[16, 8, 8, 32], ChannelsLast),
    (&[2, 3, 4, 5, 6], ChannelsFirst),
    (&[2, 4, 5, 6, 3], ChannelsLast),
    (&[2, 5, 3, 11, 13], ChannelsFirst),
    (&[2, 3, 11, 13, 5], ChannelsLast),
    (&[2, 70_001, 2], ChannelsFirst),
    (&[40, 257, 1, 1], ChannelsFirst),
    (&[2, 3, 1, 1, 1], ChannelsLast),
];

#[test]
fn every_operation_meets_the_reference_on_every_shape() {
    on_every_target(|target| {
        let mut failures = Vec::new();
        for (seed, (shape, layout)) in (0..).zip(SHAPES) {
            let case = Case::random(shape, layout, seed);
            let truth = case.run_reference().unwrap();
            let got = case.run_device(target).unwrap();
            let worst = compare(&case, &got, &truth);
            println!("{}: {shape:?} {layout:?}: {:.3} {}", target, worst.ratio, worst.place);
            if worst.ratio > 1.0 {
                failures.push(format!("{}: {shape:?} {layout:?}: {:.2} × {}", target, worst.ratio, worst.place));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

/// Shapes on both sides of what makes strategies differ: aligned, unaligned and scalar rows, columns with one and with
/// several repetitions of the channels, segments within and across units, cut-off super-rows, few and many channels.
const STRATEGY_SHAPES: [(&[usize], Layout); 16] = [
    (&[6, 40, 4, 4], ChannelsFirst),
    (&[3, 40, 5, 3], ChannelsFirst),
    (&[6, 36, 7, 7], ChannelsFirst),
    (&[3, 37, 7, 7], ChannelsFirst),
    (&[1, 300, 7, 7], ChannelsFirst),
    (&[2, 9, 20, 13], ChannelsFirst),
    (&[5, 64, 8, 8], ChannelsFirst),
    (&[4, 3, 65, 65], ChannelsFirst),
    (&[130, 64], ChannelsFirst),
    (&[131, 130], ChannelsFirst),
    (&[129, 33], ChannelsFirst),
    (&[1027, 3], ChannelsFirst),
    (&[9, 12, 2], ChannelsFirst),
    (&[9, 7, 3], ChannelsFirst),
    (&[3, 15, 15, 256], ChannelsLast),
    (&[5, 11, 13, 6], ChannelsLast),
];

/// Every pin of training and backward that serves a shape on a target.
fn strategies_of(target: &Target, case: &Case) -> Vec<Strategies> {
    let shape = case.shape();
    let of = |operation| Plan::strategies(&case.descriptor(), &shape, target.kernels.profile(), operation).unwrap();
    let (training, backward) = (of(Operation::Training), of(Operation::Backward));
    let serves = |&family: &Family| {
        let pin = Strategies { inference: Some(family), ..Default::default() };
        family != Family::Quads
            || Plan::with_strategies(&case.descriptor(), &shape, target.kernels.profile(), pin).is_ok()
    };
    let families: Vec<_> = [Family::Rows, Family::Columns, Family::Quads].into_iter().filter(serves).collect();
    (0..training.len().max(backward.len()))
        .map(|index| Strategies {
            training: training.get(index % training.len().max(1)).copied(),
            backward: backward.get(index % backward.len().max(1)).copied(),
            inference: Some(families[index % families.len()]),
        })
        .collect()
}

#[test]
fn every_strategy_meets_the_reference() {
    let seen = Mutex::new(std::collections::HashSet::new());
    on_every_target(|target| {
        let mut failures = Vec::new();
        for (seed, (shape, layout)) in (100..).zip(STRATEGY_SHAPES) {
            let case = Case::random(shape, layout, seed);
            let truth = case.run_reference().unwrap();
            for strategies in strategies_of(target, &case) {
                let worst = compare(&case, &case.run_device_with(target, strategies).unwrap(), &truth);
                seen.lock().unwrap().extend([strategies.training, strategies.backward]);
                if worst.ratio > 1.0 {
                    let (ratio, place) = (worst.ratio, worst.place);
                    failures.push(format!("{target}: {shape:?} {layout:?} {strategies:?}: {ratio:.2} × {place}"));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
    let seen = seen.into_inner().unwrap();
    assert!(
        Strategy::ALL.iter().all(|strategy| seen.contains(&Some(*strategy))),
        "not every strategy served: {seen:?}"
    );
}

#[test]
fn one_sample_a_channel_meets_the_reference_by_every_strategy() {
    // A lone outer step, whose columns may end within a unit, with more channels than a workgroup has invocations.
    for (seed, channels) in (0..).zip([1, 3, 17, 35, 64, 515, 1023, 1030, 2047]) {
        let mut case = Case::random(&[1, channels], ChannelsFirst, seed);
        case.convention = Convention::onnx();
        assert_meets_reference(&case, "one sample");
    }
    for (seed, (outer, channels, inner)) in (0..).zip([(2, 517, 1), (3, 131, 1), (1, 517, 2), (1, 300, 3), (3, 99, 3)])
    {
        assert_meets_reference(&Case::random(&[outer, channels, inner], ChannelsFirst, seed), "few super-rows");
    }
}

#[test]
fn many_slots_are_merged_apart_with_the_batch_count_beside_them() {
    let columns = Some(Strategy::Split { reduction: Family::Columns, elementwise: Family::Columns });
    let pin = Strategies { training: columns, backward: columns, inference: None };
    on_every_target(|target| {
        for (seed, shape) in (0..).zip([&[3000, 32][..], &[4099, 5], &[6001, 64]]) {
            let mut case = Case::random(shape, ChannelsFirst, seed);
            case.convention.momentum = Momentum::CumulativeAverage;
            case.batches_tracked = Some(3);
            let got = case.run_device_with(target, pin).unwrap();
            let worst = compare(&case, &got, &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {shape:?}: {worst:?}");
            assert_eq!(got.batches_tracked, Some(4), "{target}: {shape:?}");
        }
    });
}

#[test]
fn every_combination_of_optional_parts_meets_the_reference() {
    on_every_target(|target| {
        let (mut worst, mut compared) = (Worst::default(), 0);
        // Software drivers take seconds to compile what one case needs, so plans for other machines take fewer cases.
        let seeds = if target.kernels.profile().class == AdapterClass::Cpu { 0..40 } else { 40..52 };
        for seed in seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut shape: Vec<usize> = vec![rng.random_range(1..9), rng.random_range(1..20)];
            shape.extend((0..rng.random_range(0..4)).map(|_| rng.random_range(1..12)));
            let layout = if rng.random() { ChannelsFirst } else { ChannelsLast };
            let channels = shape[layout.channel_axis(shape.len())];
            if shape.iter().product::<usize>() <= channels {
                continue;
            }
            let case = Case::arbitrary(&shape, layout, seed);
            let truth = case.run_reference().unwrap();
            let pins = strategies_of(target, &case);
            let mut pin = pins.get(rng.random_range(0..pins.len().max(1))).copied().unwrap_or_default();
            // Not every family walks segments, or tensors of 16 bits.
            if case.element != ElementType::F32 || !matches!(case.segments, Segments::Batch) {
                pin.inference = None;
            }
            let got = match case.run_device_with(target, pin) {
                // What binds more tensors is carried out by splits only.
                Err(Error::StrategyNotServed { .. }) => case.run_device(target).unwrap(),
                Err(Error::SharedWords { .. }) => continue,
                got => got.unwrap(),
            };
            let found = compare(&case, &got, &truth);
            assert!(found.ratio <= 1.0, "{target}: seed {seed} {shape:?} {layout:?} {pin:?}: {found:?} in {case:?}");
            compared += 1;
            if found.ratio > worst.ratio {
                worst = found;
            }
        }
        println!("{target}: {compared} cases, {worst:?}");
        assert!(compared > 8, "{target}: {compared} cases");
    });
}

/// (N,C), channels first and channels last shapes for data that breaks careless kernels.
const ADVERSARIAL_SHAPES: [(&[usize], Layout); 7] = [
    (&[517, 5], ChannelsFirst),
    (&[9, 5, 7, 7], ChannelsFirst),
    (&[9, 7, 7, 5], ChannelsLast),
    (&[4, 128, 7, 7], ChannelsFirst),
    (&[6, 4, 32, 32], ChannelsFirst),
    (&[2, 3, 111, 111], ChannelsFirst),
    (&[300, 64], ChannelsLast),
];

#[test]
fn a_mean_a_million_times_the_deviation_costs_no_digits() {
    on_every_target(|target| {
        for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
            for ratio in [1e2_f32, 1e4, 1e6, 1e7] {
                let case = with_means(&Case::random(shape, layout, seed), ratio);
                let truth = case.run_reference().unwrap();
                let got = case.run_device(target).unwrap();
                let worst = compare(&case, &got, &truth);
                assert!(worst.ratio <= 1.0, "{}: {shape:?} {layout:?} ratio {ratio}: {worst:?}", target);
            }
        }
    });
}

/// With means of plus or minus so much, and a tenth of the deviations.
fn with_means(clean: &Case, mean: f32) -> Case {
    let mut case = clean.clone();
    for index in 0..case.input.len() {
        let sign = if case.channel(index).is_multiple_of(2) { 1.0 } else { -1.0 };
        // The reference sees the same rounded values, so what rounding did to the data is no error.
        case.input[index] = sign * mean + 0.1 * case.input[index];
    }
    case
}

/// With values of 1 to 65 million, of which the largest make the sums.
fn with_heavy_tails(clean: &Case) -> Case {
    let mut case = clean.clone();
    for value in &mut case.input {
        *value = (3.0 * value.abs().min(6.0)).exp().copysign(*value);
    }
    case
}

/// Channel 5 of NaN and infinite gradients spoils what is of channel 5, and leaves the bits of all else.
fn assert_nan_stays(target: &Target, clean: &Case, strategies: Strategies, expected: &Results) {
    let mut odd = clean.clone();
    for index in (0..odd.input.len()).filter(|&index| clean.channel(index) == 5) {
        (odd.input[index], odd.output_gradient[index]) = (f32::NAN, f32::INFINITY);
    }
    let got = odd.run_device_with(target, strategies).unwrap();
    let place = format!("{target}: {:?} {strategies:?}", clean.shape);
    for (name, got, expected, tensor) in [
        ("output", &got.output, &expected.output, true),
        ("inference", &got.inference, &expected.inference, true),
        ("running_variance", &got.running_variance, &expected.running_variance, false),
        ("input_gradient", &got.input_gradient, &expected.input_gradient, true),
        ("frozen_input_gradient", &got.frozen_input_gradient, &expected.frozen_input_gradient, true),
        ("gamma_gradient", &got.gamma_gradient, &expected.gamma_gradient, false),
        ("beta_gradient", &got.beta_gradient, &expected.beta_gradient, false),
    ] {
        for index in 0..got.len() {
            let channel = if tensor { clean.channel(index) } else { index };
            let same = got[index].to_bits() == expected[index].to_bits();
            assert!(same || channel == 5, "{place}: {name}[{index}] beside NaN");
            assert!(!same || channel != 5, "{place}: {name}[{index}] hides NaN");
        }
    }
}

/// Meets the reference within the tolerances, on every target and by every strategy.
fn assert_meets_reference(case: &Case, name: &str) {
    let truth = case.run_reference().unwrap();
    on_every_target(|target| {
        for strategies in pins(target, case) {
            let worst = compare(case, &case.run_device_with(target, strategies).unwrap(), &truth);
            let (shape, layout) = (&case.shape, case.layout);
            assert!(worst.ratio <= 1.0, "{target}: {name} {shape:?} {layout:?} {strategies:?}: {worst:?}");
        }
    });
}

/// Every strategy that serves a small case; the planner's choice for a large one, which takes long.
fn pins(target: &Target, case: &Case) -> Vec<Strategies> {
    if case.input.len() <= 1 << 16 { strategies_of(target, case) } else { vec![Strategies::default()] }
}

#[test]
fn long_runs_of_equal_additions_do_not_drift() {
    // `mean(y).backward()` gives a constant gradient; two-valued inputs make every partial sum grow by the same step.
    for (shape, layout) in [
        (&[8192, 512][..], ChannelsFirst),
        (&[4, 16, 224, 224], ChannelsFirst),
        (&[2, 224, 224, 32], ChannelsLast),
        (&[1, 128, 8191], ChannelsFirst),
        (&[480, 128, 17], ChannelsFirst),
    ] {
        for value in [0.1_f32, 0.7] {
            let mut case = Case::random(shape, layout, 1);
            for index in 0..case.input.len() {
                let within = (index / (if layout == ChannelsFirst { 1 } else { case.channels() })) as u32;
                case.input[index] = if within.wrapping_mul(2_654_435_761) >> 31 == 0 { value } else { -value };
                case.output_gradient[index] = value / 7.0;
            }
            assert_meets_reference(&case, "two-valued");
        }
    }
}

#[test]
fn outliers_take_no_digits_from_the_rest() {
    let odd_widths: [(&[usize], Layout); 4] = [
        (&[7, 521], ChannelsFirst),
        (&[7, 509], ChannelsFirst),
        (&[1, 6, 2053], ChannelsLast),
        (&[7, 1, 1021], ChannelsLast),
    ];
    for (seed, (shape, layout)) in (0..).zip(odd_widths.into_iter().chain(ADVERSARIAL_SHAPES)) {
        let clean = Case::random(shape, layout, seed);
        assert_meets_reference(&clean, "normal");
        assert_meets_reference(&with_heavy_tails(&clean), "heavy-tailed");
        let mut places = vec![Vec::new(); clean.channels()];
        for index in 0..clean.input.len() {
            places[clean.channel(index)].push(index);
        }
        for huge in [1e4_f32, 1e8] {
            for at in [&[0][..], &[1], &[0, 1]] {
                let mut case = clean.clone();
                for places in &places {
                    for &end in at {
                        case.input[if end == 0 { places[0] } else { places[places.len() - 1] }] = huge;
                    }
                }
                assert_meets_reference(&case, "outliers at the ends");
            }
        }
    }
}

#[test]
fn an_extreme_gamma_meets_an_extreme_deviation() {
    for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
        for (deviation, gamma) in [(1e-10_f32, 1e30_f32), (1e-15, 1e25), (1e15, 1e-30), (1e10, 1e-30)] {
            let mut case = Case::random(shape, layout, seed);
            case.convention.epsilon = 0.0;
            case.input.iter_mut().for_each(|value| *value *= deviation);
            case.gamma = Some(vec![gamma; case.channels()]);
            assert_meets_reference(&case, "extreme gamma");
        }
    }
}

#[test]
fn constant_channels_give_exactly_beta_and_zero_variance() {
    on_every_target(|target| {
        for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
            for epsilon in [0.0, 1e-5] {
                let mut case = Case::random(shape, layout, seed);
                case.convention.epsilon = epsilon;
                for index in 0..case.input.len() {
                    case.input[index] = [0.1, -1e7, 1e30, 123.456, 1e-30][case.channel(index) % 5];
                }
                for strategies in pins(target, &case) {
                    let got = case.run_device_with(target, strategies).unwrap();
                    let place = format!("{target}: {shape:?} {layout:?} {strategies:?}");
                    let beta = case.beta.as_ref().unwrap();
                    for (index, &y) in got.output.iter().enumerate() {
                        assert_eq!(y, beta[case.channel(index)], "{place} [{index}]");
                    }
                    for (channel, saved) in got.saved.iter().enumerate() {
                        assert_eq!(saved.variance, 0.0, "{place} channel {channel}");
                        assert_eq!(saved.mean(), case.input[first_of(&case, channel)], "{place} channel {channel}");
                    }
                }
            }
        }
    });
}

fn first_of(case: &Case, channel: usize) -> usize {
    (0..case.input.len()).find(|&index| case.channel(index) == channel).unwrap()
}

#[test]
fn nan_and_infinity_stay_in_their_channel() {
    on_every_target(|target| {
        // The last two have super-rows that are cut off, and units that two channels share.
        let shapes = ADVERSARIAL_SHAPES.into_iter().chain([
            (&[23, 21, 33][..], ChannelsLast),
            (&[13, 37, 34], ChannelsLast),
            (&[3, 5, 13, 1], ChannelsFirst),
        ]);
        for ((seed, (shape, layout)), last) in (0..).zip(shapes).flat_map(|case| [(case, false), (case, true)]) {
            for (poison, in_gradient) in
                [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, false), (f32::NAN, true)]
            {
                let clean = Case::random(shape, layout, seed);
                let mut case = clean.clone();
                let channel = if last { case.channels() - 1 } else { 1 };
                // All of it, pivot samples included.
                let places: Vec<_> = (0..case.input.len()).filter(|&index| case.channel(index) == channel).collect();
                for &index in &places {
                    let values = if in_gradient { &mut case.output_gradient } else { &mut case.input };
                    values[index] = poison;
                }
                let (got, expected) = (case.run_device(target).unwrap(), clean.run_device(target).unwrap());
                let check = |name: &str, got: &[f32], expected: &[f32], channel_of: &dyn Fn(usize) -> usize| {
                    for index in (0..got.len()).filter(|&index| channel_of(index) != channel) {
                        let same = got[index].to_bits() == expected[index].to_bits();
                        assert!(same, "{}: {shape:?} {layout:?} {poison}: {name}[{index}]", target);
                    }
                };
                let element = |index: usize| case.channel(index);
                let vector = |index: usize| index;
                check("output", &got.output, &expected.output, &element);
                check("inference", &got.inference, &expected.inference, &element);
                check("input_gradient", &got.input_gradient, &expected.input_gradient, &element);
                check("running_mean", &got.running_mean, &expected.running_mean, &vector);
                check("running_variance", &got.running_variance, &expected.running_variance, &vector);
                check("gamma_gradient", &got.gamma_gradient, &expected.gamma_gradient, &vector);
                check("beta_gradient", &got.beta_gradient, &expected.beta_gradient, &vector);
            }
        }
    });
}

#[test]
fn repeated_runs_are_equal_to_the_bit() {
    on_every_target(|target| {
        for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
            let case = Case::random(shape, layout, seed);
            let first = bits(&case.run_device(target).unwrap());
            for _ in 0..4 {
                assert_eq!(first, bits(&case.run_device(target).unwrap()), "{}: {shape:?} {layout:?}", target);
            }
        }
    });
}

#[test]
fn trusted_and_checked_shaders_give_the_same_bits() {
    on_every_target(|target| {
        let [trusted, checked] =
            [ShaderChecks::Trusted, ShaderChecks::Checked].map(|checks| target.with_checks(checks));
        for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
            let case = Case::random(shape, layout, seed);
            let (trusted, checked) = (case.run_device(&trusted).unwrap(), case.run_device(&checked).unwrap());
            assert_eq!(bits(&trusted), bits(&checked), "{target}: {shape:?} {layout:?}");
        }
    });
}

/// Everything that training and backward produced.
fn bits(results: &Results) -> Vec<u32> {
    [
        &results.output,
        &results.running_mean,
        &results.running_variance,
        &results.input_gradient,
        &results.gamma_gradient,
        &results.beta_gradient,
    ]
    .into_iter()
    .flatten()
    .map(|value| value.to_bits())
    .collect()
}

#[test]
fn empty_batches_leave_everything_but_zero_gradients() {
    on_every_target(|target| {
        for (shape, layout) in
            [(&[0, 3, 5][..], ChannelsFirst), (&[4, 3, 0], ChannelsFirst), (&[0, 5, 3], ChannelsLast)]
        {
            let case = Case::random(shape, layout, 1);
            let got = case.run_device(target).unwrap();
            assert_eq!(got.running_mean, case.running_mean);
            assert_eq!(got.running_variance, case.running_variance);
            assert!(got.saved[0].pivot.to_bits() == POISON.to_bits(), "saved statistics are untouched");
            let worst = compare(&case, &got, &case.run_reference().unwrap());
            assert!(worst.ratio == 0.0, "{}: {worst:?}", target);
        }
    });
}

#[test]
fn slices_of_one_pooled_buffer_give_the_same_bits_as_separate_buffers() {
    on_every_target_and_in_windows(|target| {
        for (seed, (shape, layout)) in (0..).zip(ADVERSARIAL_SHAPES) {
            let case = Case::random(shape, layout, seed);
            let separate = case.run_device(target).unwrap();
            let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
            let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
            let alignment = target.kernels.profile().slice_alignment();
            let mut words: Vec<f32> = Vec::new();
            // A gap of one alignment unit between slices holds a pattern that nothing may touch.
            let mut place = |values: &[f32]| {
                let start = 4 * words.len() as u64;
                words.extend(values);
                let padded = (4 * words.len() as u64).next_multiple_of(alignment) + alignment;
                words.resize(padded as usize / 4, GUARD);
                start..start + 4 * values.len() as u64
            };
            let poison = vec![POISON; case.input.len()];
            let vector = vec![POISON; case.channels()];
            let input = place(&case.input);
            let output = place(&poison);
            let dy = place(&case.output_gradient);
            let dx = place(&poison);
            let gamma = place(case.gamma.as_ref().unwrap());
            let beta = place(case.beta.as_ref().unwrap());
            let mean = place(&case.running_mean);
            let variance = place(&case.running_variance);
            let (dgamma, dbeta) = (place(&vector), place(&vector));
            let saved = place(&vec![POISON; 4 * case.channels()]);
            let workspace = place(&vec![POISON; plan.workspace_size() as usize / 4]);
            let pool = target.gpu.upload("pool", &words);
            let slice = |range: &std::ops::Range<u64>| pool.slice(range.clone());
            let training = bn
                .bind_training(
                    &plan,
                    &TrainingBuffers {
                        gamma: Some(slice(&gamma)),
                        beta: Some(slice(&beta)),
                        running: Some(RunningStatistics {
                            mean: slice(&mean),
                            variance: slice(&variance),
                            batches_tracked: None,
                        }),
                        saved: Some(slice(&saved)),
                        ..TrainingBuffers::new(slice(&input), slice(&output), slice(&workspace))
                    },
                )
                .unwrap();
            let backward = bn
                .bind_backward(
                    &plan,
                    &BackwardBuffers {
                        gamma: Some(slice(&gamma)),
                        saved: Some(slice(&saved)),
                        input_gradient: Some(Gradient::Overwrite(slice(&dx))),
                        gamma_gradient: Some(Gradient::Overwrite(slice(&dgamma))),
                        beta_gradient: Some(Gradient::Overwrite(slice(&dbeta))),
                        ..BackwardBuffers::new(slice(&input), slice(&dy), slice(&workspace))
                    },
                )
                .unwrap();
            target.gpu.submit(|pass| {
                training.record(pass);
                backward.record(pass);
            });
            let after: Vec<f32> = target.gpu.read(&pool, words.len());
            let part = |range: &std::ops::Range<u64>| &after[range.start as usize / 4..range.end as usize / 4];
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            for (name, range, expected) in [
                ("output", &output, &separate.output),
                ("running_mean", &mean, &separate.running_mean),
                ("running_variance", &variance, &separate.running_variance),
                ("input_gradient", &dx, &separate.input_gradient),
                ("gamma_gradient", &dgamma, &separate.gamma_gradient),
                ("beta_gradient", &dbeta, &separate.beta_gradient),
                ("input", &input, &case.input),
            ] {
                assert_eq!(bits(part(range)), bits(expected), "{target}: {shape:?} {layout:?}: {name}");
            }
            let guards = words.iter().zip(&after).filter(|(before, _)| before.to_bits() == GUARD.to_bits());
            assert!(guards.clone().count() > 0 && guards.clone().all(|(_, after)| after.to_bits() == GUARD.to_bits()));
        }
    });
}

#[test]
fn the_running_update_is_a_switch_and_steps_can_be_recorded_again() {
    on_every_target(|target| {
        let case = Case { batches_tracked: Some(0), ..Case::random(&[33, 6], ChannelsFirst, 3) };
        let momentum = Momentum::CumulativeAverage;
        let case = Case { convention: Convention { momentum, ..Convention::pytorch() }, ..case };
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let plan = bn.plan(&Shape::new(&case.shape).unwrap()).unwrap();
        let gpu = &target.gpu;
        let (input, output) = (gpu.upload("input", &case.input), gpu.zeroed("output", plan.tensor_size()));
        let mean = gpu.upload("mean", &case.running_mean);
        let variance = gpu.upload("variance", &case.running_variance);
        let tracked = gpu.upload("tracked", &[0_u32]);
        let workspace = gpu.zeroed("workspace", plan.workspace_size());
        let vector = ..plan.vector_size();
        let step = bn
            .bind_training(
                &plan,
                &TrainingBuffers {
                    running: Some(RunningStatistics {
                        mean: mean.slice(vector),
                        variance: variance.slice(vector),
                        batches_tracked: Some(tracked.slice(..4)),
                    }),
                    ..TrainingBuffers::new(
                        input.slice(..plan.tensor_size()),
                        output.slice(..plan.tensor_size()),
                        workspace.slice(..),
                    )
                },
            )
            .unwrap();
        let state = || {
            let values: [Vec<f32>; 2] = [gpu.read(&mean, 6), gpu.read(&variance, 6)];
            (values, gpu.read::<u32>(&tracked, 1)[0])
        };
        gpu.submit(|pass| {
            step.record_without_running_update(pass);
            step.record_without_running_update(pass);
        });
        assert_eq!(state(), ([case.running_mean.clone(), case.running_variance.clone()], 0), "{target}");
        let without: Vec<f32> = gpu.read(&output, case.input.len());
        // A cumulative average of one batch seen three times is that batch's statistics, whatever came before.
        gpu.submit(|pass| step.record(pass));
        let (once, counted) = state();
        assert_eq!(counted, 1);
        gpu.submit(|pass| {
            step.record(pass);
            step.record(pass);
        });
        let (thrice, counted) = state();
        assert_eq!(counted, 3);
        for (a, b) in once.iter().flatten().zip(thrice.iter().flatten()) {
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * a.abs(), "{target}: {a} became {b}");
        }
        let truth = case.run_reference().unwrap();
        for (a, b) in once[0].iter().zip(&truth.running_mean) {
            assert!((a - b).abs() <= 8.0 * f32::EPSILON * b.abs().max(1.0), "{target}: {a}, reference {b}");
        }
        assert_eq!(without, gpu.read::<f32>(&output, case.input.len()), "{target}: the update changes no output");
    });
}
