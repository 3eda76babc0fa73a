//! One batch in several parts.

use std::sync::Arc;

use super::padding::poison;
use crate::common::case::{Case, Padding, Segments};
use crate::common::parts::{run_devices_in_parts, run_reference_in_parts};
use crate::common::tolerance::compare;
use crate::common::{Target, on_all_targets, on_every_target, on_every_target_and_in_windows, support};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNorm, ChannelMoments, Convention, ElementType, Error, Kernels, Momentum,
    SegmentRunning, Shape, reference,
};

/// A shape, and how its samples are cut: unequal, with parts that are empty or have one sample.
const CUTS: [(&[usize], Layout, &[usize]); 5] = [
    (&[9, 5, 7, 7], ChannelsFirst, &[4, 0, 5]),
    (&[12, 7, 16], ChannelsLast, &[12]),
    (&[40, 12], ChannelsFirst, &[1, 1, 30, 8]),
    (&[6, 3, 70], ChannelsFirst, &[0, 1, 1, 1, 1, 1, 1]),
    (&[10, 6, 5, 3], ChannelsLast, &[7, 3]),
];

fn assert_parts_meet_the_whole(case: &Case, samples: &[usize], targets: &[&Target], name: &str) {
    let truth = case.run_reference().unwrap();
    let got = run_devices_in_parts(case, samples, targets, &truth).unwrap();
    let worst = compare(case, &got, &truth);
    assert!(worst.ratio <= 1.0, "{}: {name} {:?} in {samples:?}: {worst:?}", targets[0], case.shape);
}

#[test]
fn a_batch_in_parts_is_the_whole_batch() {
    on_every_target_and_in_windows(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let case = Case::random(shape, layout, seed);
            assert_parts_meet_the_whole(&case, samples, &[target], "plain");
        }
    });
}

#[test]
fn the_reference_in_parts_is_the_reference() {
    for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
        let mut case = Case::random(shape, layout, seed).fused(Activation::Relu, true, ActivationSource::Recompute);
        case.returns_residual_gradient = true;
        case.renormalization = (seed % 2 == 0).then_some([1.5, 0.5]);
        let truth = case.run_reference().unwrap();
        let worst = compare(&case, &run_reference_in_parts(&case, samples, &truth).unwrap(), &truth);
        assert!(worst.ratio <= 1.0, "{shape:?} in {samples:?}: {worst:?}");
    }
}

#[test]
fn parts_go_with_every_element_fusion_and_mode() {
    let relu = Activation::Relu;
    let fusions = [
        (relu, true, ActivationSource::Mask, ElementType::F32),
        (Activation::LeakyRelu { slope: 0.1 }, false, ActivationSource::Output, ElementType::F16),
        (Activation::Silu, true, ActivationSource::Recompute, ElementType::Bf16),
        (Activation::Gelu, false, ActivationSource::Recompute, ElementType::F32),
    ];
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let (activation, residual, source, element) = fusions[seed as usize % fusions.len()];
            let mut case = Case::random(shape, layout, seed);
            if seed % 2 == 0 {
                let positions = case.input.len() / case.channels();
                case.padding = Some(Padding::Flags((0..positions).map(|at| at % 4 != 1).collect()));
            } else {
                case.renormalization = Some([1.5, 0.5]);
            }
            if shape.len() == 3 {
                let beside = if layout == ChannelsFirst { 2 } else { 1 };
                let running = [SegmentRunning::InTurn, SegmentRunning::Separate][seed as usize / 2 % 2];
                case = case.segmented(Segments::Along(beside), running);
            }
            if seed == 2 {
                case.convention = Convention { momentum: Momentum::CumulativeAverage, ..Convention::pytorch() };
                case.batches_tracked = Some(3);
            }
            let mut case = case.stored_as(element).fused(activation, residual, source);
            case.returns_residual_gradient = residual;
            if case.padding.is_some() {
                poison(&mut case);
            }
            assert_parts_meet_the_whole(&case, samples, &[target], "fused");
        }
    });
}

#[test]
fn a_large_mean_costs_no_digits_over_parts() {
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let mut case = Case::random(shape, layout, seed);
            case.input.iter_mut().for_each(|value| *value = 1e6 + 0.1 * *value);
            assert_parts_meet_the_whole(&case, samples, &[target], "large mean");
        }
    });
}

#[test]
fn parts_may_lie_on_several_devices() {
    on_all_targets(|targets| {
        // Where there is one device only, it is opened again.
        let again: Vec<Target> = if targets.len() == 1 { support::open_all(None) } else { Vec::new() }
            .into_iter()
            .map(|gpu| Target { kernels: Kernels::new(&gpu.device), gpu: Arc::new(gpu), ..targets[0] })
            .collect();
        let targets: Vec<&Target> = targets.iter().chain(&again).collect();
        assert!(targets.len() > 1);
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            assert_parts_meet_the_whole(&Case::random(shape, layout, seed), samples, &targets, "several devices");
        }
    });
}

#[test]
fn moments_merge_in_any_groups() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let case = Case::random(&[20, 6, 9], ChannelsFirst, 5);
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let truth = reference::BatchNorm::new(&case.descriptor()).unwrap();
        let plan = bn.plan(&case.shape()).unwrap();
        let reference_plan = truth.plan(&case.shape()).unwrap();
        let part = |samples: usize, first: usize| {
            let mut record = vec![ChannelMoments::default(); 6];
            let plan = truth.plan(&Shape::new(&[samples, 6, 9]).unwrap()).unwrap();
            let values = &case.input[first * 54..(first + samples) * 54];
            truth.part_moments(&plan, values, None, &mut record).unwrap();
            record
        };
        let mut whole = vec![ChannelMoments::default(); 6];
        truth.part_moments(&reference_plan, &case.input, None, &mut whole).unwrap();
        // Whatever an empty part holds.
        let nothing = vec![ChannelMoments { count: 0, pivot: f32::NAN, offset: f32::INFINITY, m2: f32::NAN }; 6];
        for parts in [
            [nothing.clone(), part(3, 0), part(17, 3)].concat(),
            (0..20).map(|sample| part(1, sample)).collect::<Vec<_>>().concat(),
            part(20, 0),
        ] {
            let from = gpu.upload("parts", &parts);
            let merged = gpu.zeroed("merged", plan.part_moments_size());
            let size = size_of_val(&parts[..]) as u64;
            let step =
                bn.bind_merge_moments(&plan, from.slice(..size), merged.slice(..plan.part_moments_size())).unwrap();
            gpu.submit(|pass| step.record(pass));
            let mut expected = vec![ChannelMoments::default(); 6];
            truth.merge_moments(&reference_plan, &parts, &mut expected).unwrap();
            for ((got, expected), whole) in gpu.read::<ChannelMoments>(&merged, 6).iter().zip(&expected).zip(&whole) {
                assert_eq!(got.count, whole.count, "{target}");
                let mean_error = (got.mean() - whole.mean()).abs();
                let deviation = (whole.m2 / whole.count as f32).sqrt();
                assert!(
                    mean_error <= 4.0 * f32::EPSILON * (deviation + whole.mean().abs()),
                    "{target}: {got:?} {whole:?}"
                );
                assert!((got.m2 - whole.m2).abs() <= 16.0 * f32::EPSILON * whole.m2, "{target}: {got:?} {whole:?}");
                assert!((expected.m2 - whole.m2).abs() <= 2.0 * f32::EPSILON * whole.m2, "reference: {expected:?}");
            }
        }
        let too_many = vec![ChannelMoments::default(); 6 * 2049];
        let (from, merged) = (gpu.upload("parts", &too_many), gpu.zeroed("merged", plan.part_moments_size()));
        let size = size_of_val(&too_many[..]) as u64;
        let refused = bn.bind_merge_moments(&plan, from.slice(..size), merged.slice(..plan.part_moments_size()));
        assert!(matches!(refused, Err(Error::TooManyParts { parts: 2049, most: 2048 })));
    });
}
