//! Rows that share units with their neighbours, walked four channels at a time: run by run where a software driver's invocations have
//! a quad each, trip by trip elsewhere.

use super::{assert_nan_stays, with_heavy_tails, with_means};
use crate::common::case::{Case, Results};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{Activation, ActivationSource, AdapterClass, ElementType, Family, Strategies, Strategy};

/// Channels enough for an invocation each and too few, rows from the shortest to such as one level does not hold, more rows than one
/// level holds, boundaries at every component of a unit, and rows that invocations take in turn, as many each and not.
const SHAPES: [&[usize]; 10] = [
    &[3, 132, 7],
    &[2, 128, 10],
    &[1, 140, 5],
    &[35, 128, 5],
    &[1, 128, 301],
    &[33, 8, 49],
    &[3, 12, 6],
    &[2, 4, 1023],
    &[9, 36, 49],
    &[70, 32, 33],
];

fn pin(strategy: Strategy) -> Strategies {
    Strategies { training: Some(strategy), backward: Some(strategy), inference: Some(Family::Quads) }
}

const LOOP: Strategy = Strategy::ChannelLoop(Family::Quads);
const SPLIT: Strategy = Strategy::Split { reduction: Family::Quads, elementwise: Family::Quads };

fn check(target: &Target, case: &Case, strategy: Strategy, place: &str) -> Results {
    let got = case.run_device_with(target, pin(strategy)).unwrap();
    let worst = compare(case, &got, &case.run_reference().unwrap());
    assert!(worst.ratio <= 1.0, "{target}: {place} {:?} {strategy}: {worst:?}", case.shape);
    got
}

#[test]
fn quads_meet_the_reference_wherever_rows_begin() {
    on_every_target(|target| {
        for (seed, shape) in (0..).zip(SHAPES) {
            let case = Case::random(shape, ChannelsFirst, seed);
            check(target, &case, LOOP, "plain");
            check(target, &case, SPLIT, "plain");
        }
    });
}

#[test]
fn quads_meet_the_reference_whatever_is_fused_and_however_tensors_are_stored() {
    let leaky = Activation::LeakyRelu { slope: 0.1 };
    let fused = [
        (Activation::Silu, false, ActivationSource::Recompute, LOOP),
        (leaky, true, ActivationSource::Recompute, SPLIT),
        (Activation::Relu, true, ActivationSource::Output, SPLIT),
        (Activation::Relu, true, ActivationSource::Mask, SPLIT),
    ];
    on_every_target(|target| {
        // Pipelines take long on software drivers: all of them for the walk by runs, a few for the other.
        let software = target.kernels.profile().class == AdapterClass::Cpu;
        let elements = [ElementType::F32, ElementType::F16, ElementType::Bf16];
        for (seed, shape) in (0..).zip([&[3, 132, 7][..], &[5, 8, 9], &[9, 36, 49]]) {
            for (index, (activation, residual, source, strategy)) in fused.into_iter().enumerate() {
                let in_turn = shape[0] == 9;
                if !software && (in_turn || index % 3 != target.plan % 3) {
                    continue;
                }
                let element = elements[(index + usize::from(shape[1] == 8)) % 3];
                let case = Case::random(shape, ChannelsFirst, seed).stored_as(element);
                let case = case.fused(activation, residual, source);
                check(target, &case, strategy, &format!("{activation} {element:?}"));
            }
        }
    });
}

#[test]
fn large_means_and_heavy_tails_cost_no_digits_in_quads() {
    on_every_target(|target| {
        for (seed, shape) in (0..).zip([&[4, 128, 7, 7][..], &[5, 8, 9], &[2, 128, 301], &[11, 32, 7, 7]]) {
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
fn a_channel_of_nan_in_a_quad_leaves_its_neighbours_as_they_are() {
    on_every_target(|target| {
        for shape in [&[3, 132, 7][..], &[5, 8, 9]] {
            let clean = Case::random(shape, ChannelsFirst, 1);
            for strategy in [LOOP, SPLIT] {
                let expected = check(target, &clean, strategy, "clean");
                assert_nan_stays(target, &clean, pin(strategy), &expected);
            }
        }
    });
}
