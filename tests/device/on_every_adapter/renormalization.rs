//! Batch renormalization.

use super::with_means;
use crate::common::case::{Case, Padding, Segments};
use crate::common::on_every_target;
use crate::common::tolerance::compare;
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::{InTurn, Separate};
use wgpu_batch_norm::{Activation, ActivationSource, ElementType, SequenceAxes};

#[test]
fn renormalization_meets_the_reference_within_its_limits_and_at_them() {
    on_every_target(|target| {
        for (seed, (shape, layout)) in (0..).zip([
            (&[9, 6, 5, 5][..], ChannelsFirst),
            (&[9, 5, 5, 6], ChannelsLast),
            (&[64, 33], ChannelsFirst),
            (&[5, 7, 64], ChannelsFirst),
        ]) {
            for limits in [[1.0, 0.0], [1.5, 0.5], [100.0, 100.0]] {
                let mut case = Case::random(shape, layout, seed);
                case.renormalization = Some(limits);
                let got = case.run_device(target).unwrap();
                let worst = compare(&case, &got, &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} {limits:?}: {worst:?}");
                let at_limit =
                    got.renormalization.iter().filter(|r| r.scale == limits[0] || r.shift.abs() == limits[1]);
                assert_eq!(at_limit.count() > 0, limits[0] < 100.0, "{shape:?} {limits:?}");
            }
        }
    });
}

#[test]
fn a_large_mean_costs_no_digits_beside_renormalization() {
    on_every_target(|target| {
        for (seed, (shape, layout)) in (0..).zip([(&[9, 5, 5, 6][..], ChannelsLast), (&[5, 7, 64], ChannelsFirst)]) {
            for mean in [1e4_f32, 1e6, 1e7] {
                let mut case = with_means(&Case::random(shape, layout, seed), mean);
                // Running statistics of such data: D is the difference of two large means.
                let moments = case.moments(case.recorded());
                for (channel, moments) in moments.iter().enumerate() {
                    let deviation = moments.variance.sqrt();
                    case.running_mean[channel] = (moments.mean + 0.4 * deviation) as f32;
                    case.running_variance[channel] = (1.3 * moments.variance) as f32;
                }
                case.renormalization = Some([1.5, 2.0]);
                let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} mean {mean}: {worst:?}");
            }
        }
    });
}

/// R = 1 and D = 0: what is left is batch normalization.
#[test]
fn limits_of_one_and_zero_give_batch_normalization() {
    on_every_target(|target| {
        let plain = Case::random(&[12, 7, 9], ChannelsFirst, 2);
        let mut case = plain.clone();
        case.renormalization = Some([1.0, 0.0]);
        let mut got = case.run_device(target).unwrap();
        got.renormalization.clear();
        let worst = compare(&plain, &got, &plain.run_reference().unwrap());
        assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
    });
}

#[test]
fn running_statistics_that_are_no_numbers_are_not_hidden() {
    on_every_target(|target| {
        for of_variance in [false, true] {
            let mut case = Case::random(&[12, 4, 3], ChannelsFirst, 4);
            case.renormalization = Some([3.0, 5.0]);
            let statistics = if of_variance { &mut case.running_variance } else { &mut case.running_mean };
            statistics[2] = f32::NAN;
            let (got, truth) = (case.run_device(target).unwrap(), case.run_reference().unwrap());
            let nan = |values: &[f32]| values.iter().map(|value| value.is_nan()).collect::<Vec<_>>();
            assert_eq!(nan(&got.output), nan(&truth.output), "{target}, variance: {of_variance}");
            assert_eq!(nan(&got.gamma_gradient), nan(&truth.gamma_gradient), "{target}, variance: {of_variance}");
            assert!(got.output.iter().any(|value| value.is_nan()));
        }
    });
}

#[test]
fn renormalization_goes_with_everything() {
    on_every_target(|target| {
        for (seed, running) in (0..).zip([InTurn, Separate]) {
            let mut case = Case::random(&[8, 6, 4], ChannelsLast, seed).segmented(Segments::SubBatches(2), running);
            case.renormalization = Some([1.4, 0.7]);
            case.padding = Some(Padding::Lengths(vec![3, 6, 5, 1, 6, 2, 4, 6], SequenceAxes { sequence: 0, step: 1 }));
            let mut case = case.stored_as(ElementType::Bf16).fused(Activation::Relu, true, ActivationSource::Mask);
            case.returns_residual_gradient = true;
            case.accumulates = true;
            let worst = compare(&case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {running:?}: {worst:?}");
        }
    });
}
