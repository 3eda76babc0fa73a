//! Padding: where it stands, that nothing of it is looked at, and what is left of batches that are nearly all padding.
//!
//! That the rest is a batch of its own is tested beside segments.

use approx::assert_relative_eq;
use proptest::prelude::*;
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, FrozenBackwardBuffers, Gradient, InferenceBuffers,
    OutputBackwardBuffers, RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, BatchNormDescriptor, ChannelHealth, ChannelMoments, ChannelStatistics, Convention, Error, Layout,
    Momentum, OneSamplePolicy, SegmentRunning, SequenceAxes, Shape,
};

use super::case::Gradients;
use super::parts::{CUTS, Parts, Running};
use super::segments::{POLICIES, check_differences};
use super::{ACTIVATIONS, planned};

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn all_bits(gradients: &Gradients) -> Vec<Vec<u64>> {
    [&gradients.input, &gradients.gamma, &gradients.beta, &gradients.residual].map(|values| bits(values)).into()
}

proptest! {
    #[test]
    fn nothing_at_padding_is_looked_at(
        which in 0..CUTS.len(), activation in 0..ACTIVATIONS.len(), policy in 0..POLICIES.len(), seed: u64,
    ) {
        let convention = Convention { segment_running: POLICIES[policy], ..Convention::pytorch() };
        let clean = Parts::random(CUTS[which], convention, ACTIVATIONS[activation], Some(0.4), seed);
        let mut dirty = clean.clone();
        for index in (0..clean.input.len()).filter(|&index| !clean.is_valid(index)) {
            let poison = [f64::NAN, f64::INFINITY, -1e300][index % 3];
            dirty.input[index] = poison;
            dirty.output_gradient[index] = poison;
            dirty.residual[index] = poison;
        }
        let running = clean.running(2, seed);
        let (trained, same) = (clean.train(running.clone()), dirty.train(running.clone()));
        prop_assert_eq!(bits(&trained.output), bits(&same.output));
        prop_assert_eq!((&trained.mask, &trained.saved, &trained.health), (&same.mask, &same.saved, &same.health));
        prop_assert_eq!(&trained.running, &same.running);
        prop_assert_eq!(bits(&clean.infer(&running)), bits(&dirty.infer(&running)));
        for index in (0..clean.input.len()).filter(|&index| !clean.is_valid(index)) {
            prop_assert_eq!(trained.output[index], 0.0);
            prop_assert!(!trained.mask.get(index).copied().unwrap_or(false));
        }
        for frozen in [None, Some(&running)] {
            fn run(parts: &Parts, frozen: Option<&Running>, state: ActivationState<'_, f64>, onto: f64) -> Gradients {
                parts.backward(frozen, state, None, parts.gradients(onto), onto == 3.0)
            }
            for onto in [f64::NAN, 3.0] {
                let expected = run(&clean, frozen, clean.recompute(), onto);
                prop_assert_eq!(all_bits(&expected), all_bits(&run(&dirty, frozen, dirty.recompute(), onto)));
                if clean.activation().is_piecewise_linear() && frozen.is_none() {
                    let mut output = trained.output.clone();
                    let mut mask = vec![0; output.len().div_ceil(32)];
                    for (index, y) in output.iter_mut().enumerate() {
                        // A bit at padding is as good as none.
                        mask[index / 32] |= u32::from(trained.mask[index] || !clean.is_valid(index)) << (index % 32);
                        *y = if clean.is_valid(index) { *y } else { f64::NAN };
                    }
                    for state in [ActivationState::Output(&output), ActivationState::Mask(&mask)] {
                        prop_assert_eq!(all_bits(&expected), all_bits(&run(&dirty, frozen, state, onto)));
                    }
                }
                for index in (0..clean.input.len()).filter(|&index| !clean.is_valid(index)) {
                    let left = if onto == 3.0 { 3.0 } else { 0.0 };
                    prop_assert_eq!((expected.input[index], expected.residual[index]), (left, left));
                }
            }
        }
        let accumulated = |parts: &Parts| {
            let mut moments = vec![ChannelMoments::default(); running.mean.len()];
            parts.bn.accumulate(&parts.plan, &parts.input, parts.valid.as_deref(), &mut moments).unwrap();
            moments
        };
        prop_assert_eq!(accumulated(&clean), accumulated(&dirty));
    }

    #[test]
    fn flags_without_padding_change_nothing(
        which in 0..CUTS.len(), activation in 0..ACTIVATIONS.len(), policy in 0..POLICIES.len(), seed: u64,
    ) {
        let convention = Convention { segment_running: POLICIES[policy], ..Convention::keras() };
        let plain = Parts::random(CUTS[which], convention, ACTIVATIONS[activation], None, seed);
        let mut flagged = plain.clone();
        flagged.valid = Some(vec![true; plain.plan.problem().count() as usize]);
        let running = plain.running(2, seed);
        prop_assert_eq!(plain.train(running.clone()), flagged.train(running.clone()));
        prop_assert_eq!(plain.infer(&running), flagged.infer(&running));
        for frozen in [None, Some(&running)] {
            let run = |parts: &Parts| parts.backward(frozen, parts.recompute(), None, parts.gradients(0.0), false);
            prop_assert_eq!(run(&plain), run(&flagged));
        }
    }

    #[test]
    fn sequences_are_valid_up_to_their_lengths(
        which in 0..4_usize, lengths in proptest::collection::vec(0..8_u32, 3), first_step in 0..9_u32,
    ) {
        type Row = (&'static [usize], Layout, SequenceAxes, fn(usize) -> (usize, usize));
        // Three sequences of five steps; the position's sequence and step.
        let rows: [Row; 4] = [
            (&[3, 5, 2], Layout::ChannelsLast, SequenceAxes { sequence: 0, step: 1 }, |at| (at / 5, at % 5)),
            (&[3, 2, 5], Layout::ChannelsFirst, SequenceAxes { sequence: 0, step: 2 }, |at| (at / 5, at % 5)),
            (&[5, 3, 2], Layout::ChannelsLast, SequenceAxes { sequence: 1, step: 0 }, |at| (at % 3, at / 3)),
            (&[3, 2, 5, 4], Layout::ChannelsFirst, SequenceAxes { sequence: 0, step: 2 }, |at| (at / 20, at / 4 % 5)),
        ];
        let (dims, layout, axes, find) = rows[which];
        let (bn, plan) = planned(dims, layout, Convention::pytorch());
        let valid = bn.valid_positions(&plan, &lengths, axes).unwrap();
        prop_assert_eq!(valid.len() as u64, plan.problem().count());
        for (position, valid) in valid.into_iter().enumerate() {
            let (sequence, step) = find(position);
            prop_assert_eq!(valid, (step as u32) < lengths[sequence]);
        }
        for (position, valid) in bn.valid_positions_from(&plan, &lengths, axes, first_step).unwrap().into_iter().enumerate() {
            let (sequence, step) = find(position);
            prop_assert_eq!(valid, first_step + (step as u32) < lengths[sequence]);
        }
        prop_assert!(!bn.valid_positions_from(&plan, &lengths, axes, u32::MAX).unwrap().contains(&true));
    }
}

#[test]
fn every_gradient_beside_padding_is_the_finite_difference_of_its_forward() {
    for cut in CUTS {
        for activation in ACTIVATIONS {
            check_differences(cut, activation, Some(0.3));
        }
    }
}

#[test]
fn what_is_left_of_a_batch_in_closed_form() {
    let (bn, plan) = planned(&[5, 1], Layout::ChannelsFirst, Convention { epsilon: 0.0, ..Convention::pytorch() });
    let valid = [true, false, true, true, false];
    let x = [1.0, f64::NAN, 4.0, 7.0, f64::NAN];
    let (mut y, mut mean, mut variance, mut saved) = ([9.0; 5], [10.0], [20.0], [ChannelStatistics::default()]);
    bn.training(
        &plan,
        TrainingBuffers {
            input: &x,
            output: &mut y,
            gamma: Some(&[6.0_f64.sqrt()]),
            running: Some(RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None }),
            saved: Some(&mut saved),
            valid: Some(&valid),
            ..Default::default()
        },
    )
    .unwrap();
    // Mean 4, variance 6, unbiased 9.
    for (got, expected) in y.iter().zip([-3.0, 0.0, 0.0, 3.0, 0.0]) {
        assert_relative_eq!(*got, expected, max_relative = 1e-12);
    }
    assert_relative_eq!(mean[0], 9.4, max_relative = 1e-12);
    assert_relative_eq!(variance[0], 18.9, max_relative = 1e-12);
    assert_eq!((saved[0].mean(), saved[0].variance), (4.0, 6.0));
    let (mut dx, mut dgamma, mut dbeta) = ([9.0; 5], [0.0], [0.0]);
    bn.backward(
        &plan,
        BackwardBuffers {
            input: &x,
            output_gradient: &[1.0, f64::NAN, 0.0, 0.0, f64::INFINITY],
            gamma: Some(&[6.0_f64.sqrt()]),
            valid: Some(&valid),
            input_gradient: Some(Gradient::Overwrite(&mut dx)),
            gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        },
    )
    .unwrap();
    // x̂² is 3/2, 0, 3/2: 1 − 1/3 − 1/2, −1/3, −1/3 + 1/2.
    for (got, expected) in dx.iter().zip([1.0 / 6.0, 0.0, -1.0 / 3.0, 1.0 / 6.0, 0.0]) {
        assert_relative_eq!(*got, expected, max_relative = 1e-12);
    }
    assert_relative_eq!(dgamma[0], -1.5_f64.sqrt(), max_relative = 1e-12);
    assert_eq!(dbeta, [1.0]);
}

/// One channel in three segments of two: whole, one valid element, none.
fn thin(one_sample: OneSamplePolicy, segment_running: SegmentRunning, momentum: Momentum) -> (Running, [f64; 6]) {
    let convention = Convention { one_sample, segment_running, momentum, ..Convention::pytorch() };
    let bn = BatchNorm::new(&BatchNormDescriptor { channels: 1, convention, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::new(&[6, 1]).unwrap().with_sub_batches(3).unwrap()).unwrap();
    let values = if segment_running == SegmentRunning::Separate { 3 } else { 1 };
    let (mut mean, mut variance, mut tracked) = (vec![10.0; values], vec![20.0; values], 3);
    let (mut saved, mut health) = ([ChannelStatistics::default(); 3], [ChannelHealth(9); 3]);
    let valid = Some(&[true, true, false, true, false, false][..]);
    let mut y = [9.0; 6];
    bn.training(
        &plan,
        TrainingBuffers {
            input: &[0.0, 2.0, f64::NAN, 6.0, f64::NAN, f64::NAN],
            output: &mut y,
            beta: Some(&[0.5]),
            running: Some(RunningStatistics {
                mean: &mut mean,
                variance: &mut variance,
                batches_tracked: Some(&mut tracked),
            }),
            saved: Some(&mut saved),
            valid,
            health: Some(&mut health),
            ..Default::default()
        },
    )
    .unwrap();
    let constant = ChannelHealth(ChannelHealth::ZERO_VARIANCE);
    assert_eq!(health, [ChannelHealth(0), constant, constant]);
    let inverse_deviation = (1.0 / 1e-5_f64.sqrt()) as f32;
    let one = ChannelStatistics { pivot: 6.0, offset: 0.0, inverse_deviation, variance: 0.0 };
    assert_eq!(saved[1..], [one, ChannelStatistics { pivot: 0.0, ..one }]);
    (Running { mean, variance, tracked }, y)
}

#[test]
fn segments_of_one_valid_element_or_none_by_every_policy() {
    use OneSamplePolicy::PopulationVariance;
    use SegmentRunning::{Averaged, InTurn, Separate};
    let (half, cumulative) = (Momentum::WeightOfNew(0.5), Momentum::CumulativeAverage);
    type Row<'a> = (SegmentRunning, Momentum, bool, &'a [f64], &'a [f64], u32);
    // The first segment has mean 1 and the unbiased variance 2, the second mean 6 and variance 0 if it counts.
    let rows: [Row<'_>; 8] = [
        (InTurn, half, false, &[5.5], &[11.0], 6),
        (InTurn, half, true, &[5.75], &[5.5], 6),
        (InTurn, cumulative, false, &[7.75], &[15.5], 6),
        (InTurn, cumulative, true, &[7.4], &[12.4], 6),
        (Averaged, half, false, &[5.5], &[11.0], 4),
        (Averaged, half, true, &[6.75], &[10.5], 4),
        (Separate, half, false, &[5.5, 10.0, 10.0], &[11.0, 20.0, 20.0], 4),
        (Separate, half, true, &[5.5, 8.0, 10.0], &[11.0, 10.0, 20.0], 4),
    ];
    for (segment_running, momentum, counts, mean, variance, tracked) in rows {
        let policies: &[OneSamplePolicy] =
            if counts { &[PopulationVariance] } else { &[OneSamplePolicy::Error, OneSamplePolicy::SkipRunningUpdate] };
        for &one_sample in policies {
            let (running, y) = thin(one_sample, segment_running, momentum);
            for (got, expected) in running.mean.iter().zip(mean).chain(running.variance.iter().zip(variance)) {
                assert_relative_eq!(got, expected, max_relative = 1e-12);
            }
            assert_eq!((running.mean.len(), running.tracked), (mean.len(), tracked));
            // One element is its own mean.
            assert_eq!(y[2..], [0.0, 0.5, 0.0, 0.0]);
        }
    }
}

#[test]
fn a_batch_of_padding_alone_is_zero_and_leaves_running_statistics_alone() {
    for segment_running in POLICIES {
        let convention = Convention { segment_running, ..Convention::pytorch() };
        let mut parts = Parts::random(CUTS[3], convention, Activation::Relu, None, 1);
        parts.valid = Some(vec![false; parts.plan.problem().count() as usize]);
        let running = parts.running(3, 4);
        let trained = parts.train(running.clone());
        assert_eq!((&trained.running.mean, &trained.running.variance), (&running.mean, &running.variance));
        assert_eq!(trained.running.tracked, if segment_running == SegmentRunning::InTurn { 5 } else { 4 });
        assert!(trained.output.iter().all(|y| y.to_bits() == 0));
        assert!(trained.health.iter().all(|health| health.is_constant() && health.is_finite()));
        let got = parts.backward(None, parts.recompute(), None, parts.gradients(f64::NAN), false);
        assert_eq!(got, parts.gradients(0.0));
        let got = parts.backward(Some(&running), parts.recompute(), None, parts.gradients(4.0), true);
        assert_eq!(got, parts.gradients(4.0));
        let mut moments = vec![ChannelMoments { count: 3, pivot: 1.0, offset: 0.5, m2: 2.0 }; running.mean.len()];
        let before = moments.clone();
        parts.bn.accumulate(&parts.plan, &parts.input, parts.valid.as_deref(), &mut moments).unwrap();
        assert_eq!(moments, before);
    }
}

#[test]
fn policies_for_one_sample_go_by_the_shape() {
    let (bn, plan) = planned(&[1, 2], Layout::ChannelsFirst, Convention::pytorch());
    for valid in [true, false] {
        let mut y = [9.0_f32; 2];
        let buffers = TrainingBuffers { input: &[1.0; 2], output: &mut y, valid: Some(&[valid]), ..Default::default() };
        assert_eq!((bn.training(&plan, buffers), y), (Err(Error::OneSample), [9.0; 2]));
    }
}

#[test]
fn flags_and_lengths_of_another_count_are_errors_and_write_nothing() {
    let (bn, plan) = planned(&[2, 2, 3], Layout::ChannelsFirst, Convention::pytorch());
    let (x, flags) = ([1.0_f32; 12], [true; 12]);
    for actual in [5, 12] {
        let valid = Some(&flags[..actual]);
        let refused = Err(Error::WrongLength { binding: "valid", expected: 6, actual: actual as u64 });
        let (mut y, mut dbeta) = ([9.0; 12], [9.0; 2]);
        let buffers = TrainingBuffers { input: &x, output: &mut y, valid, ..Default::default() };
        assert_eq!((bn.training(&plan, buffers), y), (refused.clone(), [9.0; 12]));
        let (running_mean, running_variance) = (&[0.0; 2][..], &[1.0; 2][..]);
        let buffers =
            InferenceBuffers { input: &x, output: &mut y, running_mean, running_variance, valid, ..Default::default() };
        assert_eq!((bn.inference(&plan, buffers), y), (refused.clone(), [9.0; 12]));
        let buffers = BackwardBuffers {
            input: &x,
            output_gradient: &x,
            valid,
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        };
        assert_eq!((bn.backward(&plan, buffers), dbeta), (refused.clone(), [9.0; 2]));
        let buffers = FrozenBackwardBuffers {
            output_gradient: &x,
            running_mean,
            running_variance,
            valid,
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        };
        assert_eq!((bn.backward_frozen(&plan, buffers), dbeta), (refused.clone(), [9.0; 2]));
        let buffers = OutputBackwardBuffers {
            output: &x,
            output_gradient: &x,
            gamma: None,
            beta: None,
            saved: &[ChannelStatistics::default(); 2],
            valid,
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
        };
        assert_eq!((bn.backward_from_output(&plan, buffers), dbeta), (refused.clone(), [9.0; 2]));
        let mut moments = [ChannelMoments::default(); 2];
        assert_eq!(bn.accumulate(&plan, &x, valid, &mut moments), refused);
        assert_eq!(moments, [ChannelMoments::default(); 2]);
    }
    let axes = SequenceAxes { sequence: 0, step: 2 };
    let refused = Err(Error::WrongLength { binding: "lengths", expected: 2, actual: 3 });
    assert_eq!(bn.valid_positions(&plan, &[1; 3], axes), refused);
    for (sequence, step, axis) in [(1, 2, 1), (0, 1, 1), (0, 3, 3), (2, 2, 2)] {
        let found = bn.valid_positions(&plan, &[1; 2], SequenceAxes { sequence, step });
        assert_eq!(found, Err(Error::InvalidAxis { axis, rank: 3 }));
    }
    let (_, other) = planned(&[2, 3, 2], Layout::ChannelsLast, Convention::pytorch());
    assert_eq!(bn.valid_positions(&other, &[1; 2], axes), Err(Error::PlanMismatch));
    let (bn, plan) = planned(&[0, 2, 3], Layout::ChannelsFirst, Convention::pytorch());
    assert_eq!(bn.valid_positions(&plan, &[], axes), Ok(vec![]));
}
