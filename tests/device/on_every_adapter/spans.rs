//! Columns of many channels: the invocations of lavapipe and llvmpipe take several lanes each, side by side.

use super::{assert_nan_stays, with_heavy_tails, with_means};
use crate::common::case::{Case, Results};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{Activation, ActivationSource, AdapterClass, ElementType, Family, Layout, Strategies, Strategy};

/// Two, five and eight lanes an invocation, with and without lanes to spare, one tile and several, one row, one level of rows and more; a
/// channel loop, which makes four tiles at least, takes several from 160 channels on. Other numbers of lanes are the planner's tests':
/// each is pipelines of its own, which take long on software drivers.
const SHAPES: [(&[usize], Layout); 6] = [
    (&[3, 36], ChannelsFirst),
    (&[70, 132], ChannelsFirst),
    (&[2, 5, 7, 132], ChannelsLast),
    (&[2, 3, 3, 256], ChannelsLast),
    (&[1100, 260], ChannelsFirst),
    (&[5, 1024], ChannelsFirst),
];

fn pin(strategy: Strategy) -> Strategies {
    Strategies { training: Some(strategy), backward: Some(strategy), inference: Some(Family::Columns) }
}

const LOOP: Strategy = Strategy::ChannelLoop(Family::Columns);
const SPLIT: Strategy = Strategy::Split { reduction: Family::Columns, elementwise: Family::Columns };

/// Other drivers, and other classes of machines, walk these shapes as all columns, which other tests go through.
fn on_every_software_target(test: impl Fn(&Target) + Sync) {
    on_every_target(|target| {
        let profile = target.kernels.profile();
        if profile.class == AdapterClass::Cpu && profile.vector_width == 8 {
            test(target);
        }
    });
}

fn check(target: &Target, case: &Case, strategy: Strategy, place: &str) -> Results {
    let got = case.run_device_with(target, pin(strategy)).unwrap();
    let worst = compare(case, &got, &case.run_reference().unwrap());
    assert!(worst.ratio <= 1.0, "{target}: {place} {:?} {strategy}: {worst:?}", case.shape);
    got
}

#[test]
fn spans_meet_the_reference_however_many_lanes_they_have() {
    on_every_software_target(|target| {
        for (seed, (shape, layout)) in (0..).zip(SHAPES) {
            let case = Case::random(shape, layout, seed);
            check(target, &case, LOOP, "plain");
            check(target, &case, SPLIT, "plain");
        }
    });
}

#[test]
fn spans_meet_the_reference_whatever_is_fused_and_however_tensors_are_stored() {
    let leaky = Activation::LeakyRelu { slope: 0.1 };
    let fused = [
        (Activation::Silu, false, ActivationSource::Recompute, LOOP),
        (leaky, true, ActivationSource::Recompute, SPLIT),
        (Activation::Relu, true, ActivationSource::Output, SPLIT),
        (Activation::Relu, true, ActivationSource::Mask, SPLIT),
    ];
    on_every_software_target(|target| {
        let elements = [ElementType::F32, ElementType::F16, ElementType::Bf16];
        for (seed, shape) in (0..).zip([&[33, 1024][..], &[7, 132]]) {
            for (index, (activation, residual, source, strategy)) in fused.into_iter().enumerate() {
                let element = elements[(index + usize::from(shape[1] == 132)) % 3];
                let case = Case::random(shape, ChannelsFirst, seed).stored_as(element);
                let case = case.fused(activation, residual, source);
                check(target, &case, strategy, &format!("{activation} {element:?}"));
            }
        }
    });
}

#[test]
fn large_means_and_heavy_tails_cost_no_digits_in_spans() {
    on_every_software_target(|target| {
        for (seed, shape) in (0..).zip([&[196, 132][..], &[33, 1024]]) {
            let clean = Case::random(shape, ChannelsFirst, seed);
            let (shifted, tailed) = (with_means(&clean, 1e6), with_heavy_tails(&clean));
            for strategy in [LOOP, SPLIT] {
                check(target, &shifted, strategy, "a mean of a million");
                check(target, &tailed, strategy, "heavy-tailed");
            }
        }
    });
}

#[test]
fn a_channel_of_nan_in_a_span_leaves_its_neighbours_as_they_are() {
    on_every_software_target(|target| {
        for shape in [&[19, 1024][..], &[5, 132]] {
            let clean = Case::random(shape, ChannelsFirst, 1);
            for strategy in [LOOP, SPLIT] {
                let expected = check(target, &clean, strategy, "clean");
                assert_nan_stays(target, &clean, pin(strategy), &expected);
            }
        }
    });
}
