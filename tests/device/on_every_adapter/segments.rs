//! Statistics of segments: sub-batches, samples, steps.

use crate::common::case::{Case, Segments};
use crate::common::on_every_target;
use crate::common::tolerance::compare;
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::{Averaged, InTurn, Separate};
use wgpu_batch_norm::{AdapterClass, Convention, ElementType, Error, Layout, Momentum, SegmentRunning};

use super::strategies_of;

/// Ghost batch norm, instance norm and steps of recurrent layers, in both layouts, with parts that are whole units and parts
/// that share them.
const CASES: [(&[usize], Layout, Segments); 15] = [
    (&[8, 8, 5, 5], ChannelsFirst, Segments::SubBatches(2)),
    (&[8, 64, 5, 5], ChannelsFirst, Segments::SubBatches(2)),
    (&[8, 6, 5, 5], ChannelsFirst, Segments::SubBatches(2)),
    (&[8, 5, 5, 6], ChannelsLast, Segments::SubBatches(2)),
    (&[64, 48], ChannelsFirst, Segments::SubBatches(8)),
    (&[9, 7, 3, 3], ChannelsFirst, Segments::SubBatches(3)),
    (&[9, 3, 3, 7], ChannelsLast, Segments::SubBatches(3)),
    (&[6, 8, 9, 9], ChannelsFirst, Segments::Along(0)),
    (&[6, 9, 9, 8], ChannelsLast, Segments::Along(0)),
    (&[5, 3, 7, 7], ChannelsLast, Segments::Along(0)),
    (&[33, 12, 8], ChannelsLast, Segments::Along(1)),
    (&[33, 8, 12], ChannelsFirst, Segments::Along(2)),
    (&[12, 33, 7], ChannelsLast, Segments::Along(0)),
    (&[7, 3, 5, 11], ChannelsFirst, Segments::Along(2)),
    (&[10, 64, 20, 20], ChannelsFirst, Segments::SubBatches(5)),
];

#[test]
fn segments_meet_the_reference_by_every_strategy() {
    on_every_target(|target| {
        let mut failures = Vec::new();
        // Every strategy where pipelines are those of the other tests; the planner's choice elsewhere.
        let thorough = target.kernels.profile().class == AdapterClass::Cpu;
        for (seed, (shape, layout, segments)) in (0..).zip(CASES) {
            let running = [InTurn, Averaged, Separate][seed as usize % 3];
            let case = Case::random(shape, layout, seed).segmented(segments, running);
            let truth = case.run_reference().unwrap();
            let mut pins = strategies_of(target, &case);
            pins.iter_mut().for_each(|pin| pin.inference = None);
            pins.insert(0, Default::default());
            for pin in pins.into_iter().take(if thorough { usize::MAX } else { 1 }) {
                let worst = compare(&case, &case.run_device_with(target, pin).unwrap(), &truth);
                if worst.ratio > 1.0 {
                    failures.push(format!("{target}: {shape:?} {segments:?} {running:?} {pin:?}: {worst:?}"));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

#[test]
fn running_statistics_of_segments_follow_every_policy() {
    on_every_target(|target| {
        for (seed, running) in (0..).zip([InTurn, Averaged, Separate]) {
            for momentum in [Momentum::WeightOfNew(0.1), Momentum::WeightOfOld(0.7), Momentum::CumulativeAverage] {
                let mut case = Case::random(&[12, 9], ChannelsFirst, seed);
                case.convention = Convention { momentum, ..case.convention };
                case.batches_tracked = Some(3);
                let case = case.segmented(Segments::SubBatches(4), running);
                let got = case.run_device(target).unwrap();
                let worst = compare(&case, &got, &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {running:?} {momentum:?}: {worst:?}");
                assert_eq!(got.batches_tracked, Some(if running == InTurn { 7 } else { 4 }), "{running:?}");
            }
        }
    });
}

/// The most that share running statistics, with four channels and more; and a constant gradient, whose sum every addition rounds
/// the same way.
#[test]
fn the_most_segments_are_counted_and_added_up() {
    on_every_target(|target| {
        for running in [Averaged, InTurn] {
            let case = Case::random(&[60_000, 5, 2], ChannelsFirst, 8).segmented(Segments::SubBatches(60_000), running);
            let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {running:?}: {worst:?}");
        }
        let mut case =
            Case::random(&[1 << 17, 1, 2], ChannelsFirst, 9).segmented(Segments::SubBatches(1 << 17), Separate);
        case.output_gradient.fill(0.1);
        let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
        assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
    });
}

#[test]
fn many_segments_are_shared_without_drift() {
    on_every_target(|target| {
        for (shape, segments) in [(&[6000, 2, 5][..], Segments::SubBatches(3000)), (&[3, 2, 2000], Segments::Along(2))]
        {
            for running in [SegmentRunning::Averaged, SegmentRunning::InTurn] {
                let case = Case::random(shape, ChannelsFirst, 5).segmented(segments, running);
                let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} {running:?}: {worst:?}");
            }
        }
    });
}

#[test]
fn sixteen_bits_in_segments_meet_the_reference_or_are_refused() {
    on_every_target(|target| {
        for element in [ElementType::F16, ElementType::Bf16] {
            for (seed, (shape, layout, segments)) in (0..).zip(CASES) {
                let case = Case::random(shape, layout, seed).segmented(segments, Separate).stored_as(element);
                match case.run_device(target) {
                    Ok(got) => {
                        let worst = compare(&case, &got, &case.run_reference().unwrap());
                        assert!(worst.ratio <= 1.0, "{target}: {shape:?} {segments:?}: {worst:?}");
                    }
                    Err(error) => {
                        let shared = matches!(error, Error::SharedWords { elements, inner } if elements % 4 != 0 && inner % 4 != 0);
                        assert!(shared, "{shape:?}: {error}");
                    }
                }
            }
        }
    });
}
