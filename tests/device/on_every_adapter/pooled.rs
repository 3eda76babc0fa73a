//! All tensors of an operation in one buffer, with gaps between them that nobody may touch: whatever is fused, and whatever counts.
//! Kernels then have one usage for all that they bind, which makes variants of their own; pipelines take long on software drivers, so
//! each plan takes a part of the cases.

use super::folding::{fold_on_device, fold_on_reference};
use super::padding::{padded, poison};
use super::population::accumulate;
use crate::common::case::{Case, Segments};
use crate::common::from_output::{device_from_output, reference_from_output};
use crate::common::on_every_target;
use crate::common::parts::run_devices_in_parts;
use crate::common::tolerance::{compare, compare_folded, compare_from_output, compare_population};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::InTurn;
use wgpu_batch_norm::{Activation, ActivationSource, ElementType, SequenceAxes, Strategies};

const LEAKY: Activation = Activation::LeakyRelu { slope: 0.1 };

/// Every operation of a case, with everything that changes what is bound; of either layout, aligned and not.
fn cases() -> [(&'static str, Case); 5] {
    let plain = Case::random(&[6, 8, 16], ChannelsFirst, 0);
    let plain = Case { accumulates: true, batches_tracked: Some(2), reports_health: true, ..plain };
    let masked = Case::random(&[8, 5, 36], ChannelsLast, 1).stored_as(ElementType::F16);
    let masked = masked.fused(LEAKY, true, ActivationSource::Mask);
    let masked = Case { returns_residual_gradient: true, in_place: true, ..masked };
    let lengths = SequenceAxes { sequence: 0, step: 2 };
    let mut renormalized = padded(&[5, 7, 13], ChannelsFirst, Some(lengths), 2);
    renormalized = renormalized.fused(LEAKY, true, ActivationSource::Output);
    renormalized = Case { renormalization: Some([1.5, 0.5]), returns_residual_gradient: true, ..renormalized };
    poison(&mut renormalized);
    let mut segmented = padded(&[8, 5, 36], ChannelsLast, None, 3).stored_as(ElementType::Bf16);
    segmented = segmented.segmented(Segments::SubBatches(2), InTurn);
    segmented = segmented.fused(Activation::Gelu, false, ActivationSource::Recompute);
    segmented = Case { accumulates: true, reports_health: true, ..segmented };
    poison(&mut segmented);
    // Two that are read from the same bytes.
    let doubled =
        Case::random(&[5, 7, 13], ChannelsFirst, 4).fused(Activation::Silu, true, ActivationSource::Recompute);
    let doubled = Case { residual: Some(doubled.input.clone()), residual_is_input: true, ..doubled };
    [
        ("plain", plain),
        ("residual and mask", masked),
        ("padded and renormalized", renormalized),
        ("padded, in segments", segmented),
        ("the input as the residual", Case { returns_residual_gradient: true, ..doubled }),
    ]
}

#[test]
fn one_buffer_for_everything_meets_the_reference_whatever_is_fused_and_padded() {
    on_every_target(|target| {
        for (index, (name, case)) in cases().into_iter().enumerate().skip(target.plan).step_by(target.plans) {
            let pooled = if index == 2 { target.pooled().in_windows(1 << 10) } else { target.pooled() };
            let worst = compare(&case, &case.run_device(&pooled).unwrap(), &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{pooled}: {name}, {:?}: {worst:?}", case.shape);
        }
    });
}

#[test]
fn one_buffer_for_everything_meets_the_reference_in_parts() {
    on_every_target(|target| {
        if target.plan > 0 {
            return;
        }
        let pooled = target.pooled();
        let case = padded(&[9, 5, 8], ChannelsLast, None, 5).fused(LEAKY, true, ActivationSource::Mask);
        let mut case = Case { renormalization: Some([1.5, 0.5]), returns_residual_gradient: true, ..case };
        poison(&mut case);
        let truth = case.run_reference().unwrap();
        let got = run_devices_in_parts(&case, &[6, 1, 2], &[&pooled], &truth).unwrap();
        let worst = compare(&case, &got, &truth);
        assert!(worst.ratio <= 1.0, "{pooled}: {worst:?}");
    });
}

#[test]
fn one_buffer_for_everything_meets_the_reference_from_the_output_when_folded_and_over_batches() {
    on_every_target(|target| {
        if target.plan != 1 % target.plans {
            return;
        }
        let pooled = target.pooled();
        let case = padded(&[5, 6, 16], ChannelsFirst, None, 6);
        let case = Case { activation: LEAKY, in_place: true, ..case };
        let (kept, got) = device_from_output(&case, &pooled, Strategies::default()).unwrap();
        let worst = compare_from_output(&case, &kept, &got, &reference_from_output(&case, &kept));
        assert!(worst.ratio <= 1.0, "{pooled}: from the output: {worst:?}");

        let weight = Case { in_place: true, ..Case::random(&[1, 7, 45], ChannelsFirst, 7) };
        let bias = [-1.0, 0.5, 0.0, 3.0, 2.0, -0.1, 7.0];
        let (got, truth) = (fold_on_device(&pooled, &weight, Some(&bias)), fold_on_reference(&weight, Some(&bias)));
        let (got, truth) = (got.unwrap(), truth.unwrap());
        let worst = compare_folded(&weight, Some(&bias), (&got.0, &got.1), (&truth.0, &truth.1));
        assert!(worst.ratio <= 1.0, "{pooled}: folded: {worst:?}");

        let batches = [case, padded(&[9, 6, 16], ChannelsFirst, None, 8)];
        let mut values = vec![Vec::new(); batches[0].channels()];
        for case in &batches {
            for (index, _) in case.valid_elements().iter().enumerate().filter(|(_, valid)| **valid) {
                values[case.channel(index)].push(f64::from(case.input[index]));
            }
        }
        let got = accumulate(&pooled, &batches).unwrap();
        let [mean, variance] = &got.running;
        let worst = compare_population(&batches[0].convention, 2, &values, &got.moments, [mean, variance]);
        assert!(worst.ratio <= 1.0, "{pooled}: over batches: {worst:?}");
    });
}
