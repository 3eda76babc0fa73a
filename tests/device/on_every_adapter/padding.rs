//! Padded batches: lengths of sequences, flags of positions.

use crate::common::case::{Case, Padding, Results, Segments};
use crate::common::on_every_target;
use crate::common::tolerance::compare;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::Separate;
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNorm, Convention, ElementType, Layout, OneSamplePolicy, SequenceAxes, Shape,
    ValidBuffers, ValidSource, reference,
};

/// Sequences in every layout, and positions of images and samples; aligned, unaligned and odd.
const SHAPES: [(&[usize], Layout, Option<SequenceAxes>); 12] = [
    (&[7, 9, 8], ChannelsLast, Some(SequenceAxes { sequence: 0, step: 1 })),
    (&[7, 8, 9], ChannelsFirst, Some(SequenceAxes { sequence: 0, step: 2 })),
    (&[5, 6, 64], ChannelsFirst, Some(SequenceAxes { sequence: 0, step: 2 })),
    (&[9, 7, 5], ChannelsLast, Some(SequenceAxes { sequence: 1, step: 0 })),
    (&[3, 7, 11, 5], ChannelsFirst, Some(SequenceAxes { sequence: 0, step: 2 })),
    (&[40, 30, 128], ChannelsLast, Some(SequenceAxes { sequence: 0, step: 1 })),
    (&[61, 20], ChannelsFirst, None),
    (&[61, 3], ChannelsFirst, None),
    (&[4, 6, 9, 7], ChannelsFirst, None),
    (&[4, 9, 7, 6], ChannelsLast, None),
    (&[2, 3, 33, 65], ChannelsFirst, None),
    (&[9, 32, 7, 7], ChannelsFirst, None),
];

/// A padded case, with NaN where there is padding.
pub(super) fn padded(shape: &[usize], layout: Layout, axes: Option<SequenceAxes>, seed: u64) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut case = Case::random(shape, layout, seed);
    let positions = case.input.len() / case.channels();
    case.padding = Some(match axes {
        Some(axes) => {
            let steps = shape[axes.step] as u32;
            Padding::Lengths((0..shape[axes.sequence]).map(|_| rng.random_range(1..=steps)).collect(), axes)
        }
        None => Padding::Flags((0..positions).map(|_| rng.random_bool(0.6)).collect()),
    });
    poison(&mut case);
    case
}

pub(super) fn poison(case: &mut Case) {
    let valid = case.valid_elements();
    for index in (0..valid.len()).filter(|&index| !valid[index]) {
        case.input[index] = f32::NAN;
        case.output_gradient[index] = f32::NAN;
        if let Some(residual) = &mut case.residual {
            residual[index] = f32::INFINITY;
        }
    }
}

#[test]
fn padding_counts_for_nothing_in_any_operation() {
    on_every_target(|target| {
        let mut failures = Vec::new();
        for (seed, (shape, layout, axes)) in (0..).zip(SHAPES) {
            let case = padded(shape, layout, axes, seed);
            let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
            println!("{target}: {shape:?} {layout:?}: {:.3} {}", worst.ratio, worst.place);
            if worst.ratio > 1.0 {
                failures.push(format!("{target}: {shape:?} {layout:?}: {worst:?}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

#[test]
fn a_large_mean_costs_no_digits_beside_padding() {
    on_every_target(|target| {
        for (seed, (shape, layout, axes)) in (0..).zip(SHAPES) {
            for ratio in [1e4_f32, 1e6, 1e7] {
                let mut case = padded(shape, layout, axes, seed);
                case.input.iter_mut().for_each(|value| *value = ratio + 0.1 * *value);
                let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} {layout:?} ratio {ratio}: {worst:?}");
            }
        }
    });
}

#[test]
fn padding_goes_with_activations_residuals_and_sixteen_bits() {
    let fusions = [
        (Activation::Relu, true, ActivationSource::Mask, ElementType::F32),
        (Activation::LeakyRelu { slope: 0.1 }, false, ActivationSource::Output, ElementType::F16),
        (Activation::Silu, true, ActivationSource::Recompute, ElementType::Bf16),
        (Activation::Gelu, false, ActivationSource::Recompute, ElementType::F32),
    ];
    on_every_target(|target| {
        for (seed, (shape, layout, axes)) in (0..).zip(SHAPES) {
            let (activation, residual, source, element) = fusions[seed as usize % fusions.len()];
            let case = padded(shape, layout, axes, seed);
            let mut case = case.stored_as(element).fused(activation, residual, source);
            case.returns_residual_gradient = residual;
            case.in_place = seed % 2 == 0;
            poison(&mut case);
            let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {shape:?} {activation:?} {source:?} {element:?}: {worst:?}");
        }
    });
}

/// Steps with statistics of their own, of which late ones have few sequences left: one, or none.
#[test]
fn segments_with_one_valid_element_or_none_leave_running_statistics() {
    on_every_target(|target| {
        for one_sample in [OneSamplePolicy::Error, OneSamplePolicy::PopulationVariance] {
            for (shape, layout, step) in [(&[5, 6, 4][..], ChannelsLast, 1), (&[5, 4, 6], ChannelsFirst, 2)] {
                let axes = SequenceAxes { sequence: 0, step };
                let mut case = Case::random(shape, layout, 3).segmented(Segments::Along(step), Separate);
                case.convention = Convention { one_sample, ..case.convention };
                case.padding = Some(Padding::Lengths(vec![3, 5, 3, 2, 4], axes));
                case.reports_health = true;
                poison(&mut case);
                let got = case.run_device(target).unwrap();
                let worst = compare(&case, &got, &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {shape:?}: {worst:?}");
                let segmentation = case.segmentation();
                // Step 4 has one sequence left, step 5 none.
                for (segment, kept) in [(4, one_sample == OneSamplePolicy::Error), (5, true)] {
                    let at = segmentation.instance(segment, 1) as usize;
                    assert_eq!(got.running_mean[at] == case.running_mean[at], kept, "step {segment}");
                    assert_eq!(got.running_variance[at] == case.running_variance[at], kept, "step {segment}");
                }
            }
        }
    });
}

#[test]
fn a_batch_of_padding_leaves_everything_but_zeros() {
    on_every_target(|target| {
        let mut case = Case::random(&[4, 5, 6], ChannelsLast, 9);
        case.padding = Some(Padding::Flags(vec![false; 20]));
        poison(&mut case);
        let Results { output, input_gradient, gamma_gradient, running_mean, running_variance, .. } =
            case.run_device(target).unwrap();
        assert!(output.iter().chain(&input_gradient).chain(&gamma_gradient).all(|&value| value == 0.0), "{target}");
        assert_eq!((running_mean, running_variance), (case.running_mean, case.running_variance), "{target}");
    });
}

#[test]
fn an_infinite_gamma_beside_padding_gives_infinities() {
    on_every_target(|target| {
        let mut case = Case::random(&[6, 3, 4], ChannelsFirst, 7);
        case.gamma = Some(vec![1.0, f32::INFINITY, 1.0]);
        case.padding = Some(Padding::Flags((0..24).map(|position| position % 4 != 1).collect()));
        let (got, truth) = (case.run_device(target).unwrap(), case.run_reference().unwrap());
        for (index, (got, truth)) in got.output.iter().zip(&truth.output).enumerate() {
            assert!(got == truth || truth.is_finite(), "{target}: [{index}] {got} {truth}");
        }
    });
}

#[test]
fn without_padding_flags_change_no_more_than_the_order_of_additions() {
    on_every_target(|target| {
        let plain = Case::random(&[6, 9, 7], ChannelsFirst, 4);
        let truth = plain.run_reference().unwrap();
        let mut case = plain.clone();
        case.padding = Some(Padding::Flags(vec![true; 42]));
        let worst = compare(&plain, &case.run_device(target).unwrap(), &truth);
        assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
    });
}

/// A chunk of longer sequences, marked by their whole lengths, to the bit as by flags.
#[test]
fn a_run_of_steps_is_marked_by_the_lengths_of_whole_sequences() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        for (seed, (dims, layout, axes)) in (0..).zip(SHAPES) {
            let Some(axes) = axes else { continue };
            let descriptor = Case::random(dims, layout, seed).descriptor();
            let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
            let reference = reference::BatchNorm::new(&descriptor).unwrap();
            let shape = Shape::new(dims).unwrap();
            let plan = bn.plan(&shape).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let longest = 3 * dims[axes.step] as u32;
            let mut lengths: Vec<u32> = (0..dims[axes.sequence]).map(|_| rng.random_range(0..=longest)).collect();
            lengths[0] = u32::MAX;
            let source = gpu.upload("lengths", &lengths);
            let size = 4 * lengths.len() as u64;
            for first_step in [0, 1, dims[axes.step] as u32, u32::MAX - 1, u32::MAX] {
                let flags =
                    reference.valid_positions_from(&reference.plan(&shape).unwrap(), &lengths, axes, first_step);
                let flags: Vec<u32> = flags.unwrap().into_iter().map(u32::from).collect();
                let flags = gpu.upload("flags", &flags);
                let sources = [
                    ValidSource::LengthsFrom { lengths: source.slice(..size), axes, first_step },
                    ValidSource::Flags(flags.slice(..plan.positions_size())),
                ];
                let [by_lengths, by_flags] = sources.map(|source| {
                    let valid = gpu.upload("valid", &vec![0xAAAA_AAAA_u32; plan.valid_size() as usize / 4]);
                    let buffers = ValidBuffers { source, valid: valid.slice(..plan.valid_size()) };
                    let step = bn.bind_valid(&plan, &buffers).unwrap();
                    gpu.submit(|pass| step.record(pass));
                    gpu.read::<u32>(&valid, plan.valid_size() as usize / 4)
                });
                assert_eq!(by_lengths, by_flags, "{target}: {dims:?} {axes:?} from {first_step}");
            }
        }
    });
}
