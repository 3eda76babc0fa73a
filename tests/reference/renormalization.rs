//! Batch renormalization against inference, plain batch normalization, closed forms and differences.

use approx::{assert_abs_diff_eq, assert_relative_eq};
use proptest::prelude::*;
use wgpu_batch_norm::reference::{
    BackwardBuffers, BatchNorm, Gradient, Renormalization, RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, BatchNormDescriptor, ChannelRenormalization, Convention, Error, Layout, OneSamplePolicy,
    SegmentRunning, Shape,
};

use super::parts::{CUTS, Parts, Running, Trained};
use super::segments::POLICIES;
use super::{ACTIVATIONS, planned};

const UNLIMITED: [f32; 2] = [f32::INFINITY; 2];

fn renormalized(parts: &Parts, limits: [f32; 2], running: &Running) -> (Trained, Vec<ChannelRenormalization>) {
    let mut saved = vec![ChannelRenormalization { scale: f32::NAN, shift: f32::NAN }; parts.instances()];
    let trained = parts.train_renormalized(running.clone(), Some((limits, &mut saved)));
    (trained, saved)
}

fn paddings() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![Just(None), Just(Some(0.3))]
}

proptest! {
    #[test]
    fn without_limits_training_is_inference_by_the_statistics_before(
        which in 0..CUTS.len(), activation in 0..ACTIVATIONS.len(), policy in 0..POLICIES.len(),
        padding in paddings(), seed: u64,
    ) {
        let convention = Convention { segment_running: POLICIES[policy], ..Convention::keras() };
        let parts = Parts::random(CUTS[which], convention, ACTIVATIONS[activation], padding, seed);
        let running = parts.running(2, seed);
        let (trained, _) = renormalized(&parts, UNLIMITED, &running);
        for (got, expected) in trained.output.iter().zip(parts.infer(&running)) {
            prop_assert!((got - expected).abs() <= 1e-12 * (1.0 + expected.abs()), "{got} {expected}");
        }
    }

    #[test]
    fn limits_of_one_and_zero_leave_plain_batch_normalization(
        which in 0..CUTS.len(), activation in 0..ACTIVATIONS.len(), policy in 0..POLICIES.len(),
        padding in paddings(), seed: u64,
    ) {
        let convention = Convention { segment_running: POLICIES[policy], ..Convention::pytorch() };
        let parts = Parts::random(CUTS[which], convention, ACTIVATIONS[activation], padding, seed);
        let running = parts.running(2, seed);
        let (trained, saved) = renormalized(&parts, [1.0, 0.0], &running);
        prop_assert_eq!(trained, parts.train(running));
        let none = vec![ChannelRenormalization { scale: 1.0, shift: 0.0 }; parts.instances()];
        prop_assert_eq!(&saved, &none);
        let run = |records| parts.backward(None, parts.recompute(), records, parts.gradients(0.0), false);
        prop_assert_eq!(run(Some(&saved)), run(None));
    }

    /// Everything but y is as without renormalization, and the records are clamped ratios to what was recorded before.
    #[test]
    fn records_tell_of_the_statistics_before_the_batch(
        which in 0..CUTS.len(), policy in 0..POLICIES.len(), padding in paddings(), seed: u64,
    ) {
        let convention = Convention { segment_running: POLICIES[policy], ..Convention::pytorch() };
        let parts = Parts::random(CUTS[which], convention, Activation::Relu, padding, seed);
        let (running, limits) = (parts.running(2, seed), [1.5, 0.4]);
        let (trained, saved) = renormalized(&parts, limits, &running);
        let plain = parts.train(running.clone());
        prop_assert_eq!(
            (&trained.running, &trained.saved, &trained.health), (&plain.running, &plain.saved, &plain.health)
        );
        for segment in 0..parts.segments() {
            let before = parts.recorded(&running, segment);
            for channel in 0..parts.channels() {
                let elements = parts.elements(segment, channel);
                let count = elements.len().max(1) as f64;
                let mean = elements.iter().map(|&at| parts.input[at]).sum::<f64>() / count;
                let variance = elements.iter().map(|&at| (parts.input[at] - mean).powi(2)).sum::<f64>() / count;
                let deviation = (before.variance[channel] + 1e-5).sqrt();
                let scale = ((variance + 1e-5).sqrt() / deviation).clamp(1.0 / 1.5, 1.5);
                let shift = ((mean - before.mean[channel]) / deviation).clamp(-0.4, 0.4);
                let record = saved[parts.instance(segment, channel)];
                prop_assert!((f64::from(record.scale) - scale).abs() < 1e-6, "{record:?} {scale}");
                prop_assert!((f64::from(record.shift) - shift).abs() < 1e-6, "{record:?} {shift}");
            }
        }
    }
}

#[test]
fn clipping_in_closed_form() {
    let convention = Convention { epsilon: 0.0, ..Convention::onnx() };
    let (bn, plan) = planned(&[2, 4], Layout::ChannelsFirst, convention);
    // Means 2, deviations 1; x̂ is ∓1.
    let x = [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0_f64];
    let (mut mean, mut variance) = ([1.0, -8.0, 2.5, 12.0], [4.0, 100.0, 1.0 / 16.0, 1.0]);
    let (mut y, mut saved) = ([0.0; 8], [ChannelRenormalization::default(); 4]);
    bn.training(
        &plan,
        TrainingBuffers {
            input: &x,
            output: &mut y,
            gamma: Some(&[2.0, 1.0, 1.0, -1.0]),
            beta: Some(&[0.5, 0.0, 0.0, 0.0]),
            running: Some(RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None }),
            renormalization: Some(Renormalization { limits: [2.0, 1.5], saved: &mut saved }),
            ..Default::default()
        },
    )
    .unwrap();
    let record = |scale, shift| ChannelRenormalization { scale, shift };
    // R is 1/2, 1/10 and 4, held within 1/2 and 2, and 1; D is 1/2, 1, −2 and −10, held within ∓3/2.
    assert_eq!(saved, [record(0.5, 0.5), record(0.5, 1.0), record(2.0, -1.5), record(1.0, -1.5)]);
    assert_eq!(y, [0.5, 0.5, -3.5, 2.5, 2.5, 1.5, 0.5, 0.5]);
    for (got, expected) in mean.iter().zip([1.1, -7.0, 2.45, 11.0]) {
        assert_relative_eq!(*got, expected, max_relative = 1e-12);
    }

    let (mut dx, mut dgamma, mut dbeta) = ([9.0; 8], [0.0; 4], [0.0; 4]);
    bn.backward(
        &plan,
        BackwardBuffers {
            input: &x,
            output_gradient: &[1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0],
            renormalization: Some(&saved),
            input_gradient: Some(Gradient::Overwrite(&mut dx)),
            gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        },
    )
    .unwrap();
    // Σ h is 4 and Σ h·x̂ is 2.
    assert_eq!((dx, dgamma, dbeta), ([0.0; 8], [3.0, 5.0, -2.0, -4.0], [4.0; 4]));
}

/// `Σ g·y` with R and D as they are saved, whatever the batch.
fn loss(parts: &Parts, records: &[ChannelRenormalization]) -> f64 {
    let mut sum = 0.0;
    for segment in 0..parts.segments() {
        for channel in 0..parts.channels() {
            let elements = parts.elements(segment, channel);
            let ChannelRenormalization { scale, shift } = records[parts.instance(segment, channel)];
            let count = elements.len() as f64;
            let mean = elements.iter().map(|&at| parts.input[at]).sum::<f64>() / count;
            let variance = elements.iter().map(|&at| (parts.input[at] - mean).powi(2)).sum::<f64>() / count;
            for at in elements {
                let normalised = (parts.input[at] - mean) / (variance + parts.convention().epsilon).sqrt();
                let corrected = normalised * f64::from(scale) + f64::from(shift);
                let t = parts.gamma[channel] * corrected + parts.beta[channel] + parts.residual[at];
                sum += parts.output_gradient[at] * parts.activation().value(t);
            }
        }
    }
    sum
}

#[test]
fn every_gradient_is_the_finite_difference_with_scale_and_shift_held() {
    type Values = fn(&mut Parts) -> &mut Vec<f64>;
    // Renormalised too, no pre-activation may be near the kink.
    let is_smooth = |parts: &Parts, limits, running: &Running| {
        let identity = Parts::random(parts.cut, parts.convention(), Activation::Identity, None, 0);
        let identity = Parts { bn: identity.bn, plan: identity.plan, ..parts.clone() };
        let t = renormalized(&identity, limits, running).0.output;
        parts.is_smooth() && t.iter().enumerate().all(|(at, t)| !parts.is_valid(at) || t.abs() > 2e-3)
    };
    for (which, cut) in CUTS.into_iter().enumerate() {
        for activation in ACTIVATIONS {
            let padding = [None, Some(0.3)][which % 2];
            let convention = Convention { segment_running: POLICIES[which % 3], ..Convention::pytorch() };
            let limits = [[1.2, 0.4], [3.0, 5.0]][usize::from(activation == Activation::Silu)];
            let parts = (0..)
                .map(|seed| Parts::random(cut, convention, activation, padding, seed))
                .find(|parts| is_smooth(parts, limits, &parts.running(0, 3)))
                .unwrap();
            let (trained, records) = renormalized(&parts, limits, &parts.running(0, 3));
            // The difference is of the forward that is tested here, up to the rounding of the records.
            let forward: f64 = trained.output.iter().zip(&parts.output_gradient).map(|(y, g)| y * g).sum();
            assert_abs_diff_eq!(forward, loss(&parts, &records), epsilon = 1e-5);
            let got = parts.backward(None, parts.recompute(), Some(&records), parts.gradients(f64::NAN), false);
            let rows: [(Values, &[f64]); 4] = [
                (|parts| &mut parts.input, &got.input),
                (|parts| &mut parts.gamma, &got.gamma),
                (|parts| &mut parts.beta, &got.beta),
                (|parts| &mut parts.residual, &got.residual),
            ];
            for (values, gradients) in rows {
                for (index, gradient) in gradients.iter().enumerate() {
                    let shifted = |step: f64| {
                        let mut parts = parts.clone();
                        values(&mut parts)[index] += step;
                        loss(&parts, &records)
                    };
                    let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                    assert_abs_diff_eq!(*gradient, difference, epsilon = 1e-7);
                }
            }
        }
    }
}

#[test]
fn a_single_sample_is_renormalised_even_where_it_updates_nothing() {
    let one_sample = OneSamplePolicy::SkipRunningUpdate;
    let convention = Convention { epsilon: 0.0, one_sample, ..Convention::pytorch() };
    let (bn, plan) = planned(&[1, 1], Layout::ChannelsFirst, convention);
    let (mut mean, mut variance, mut tracked, mut y) = ([1.0], [4.0], 5, [0.0]);
    let mut saved = [ChannelRenormalization::default()];
    bn.training(
        &plan,
        TrainingBuffers {
            input: &[4.0],
            output: &mut y,
            running: Some(RunningStatistics {
                mean: &mut mean,
                variance: &mut variance,
                batches_tracked: Some(&mut tracked),
            }),
            renormalization: Some(Renormalization { limits: [3.0, 5.0], saved: &mut saved }),
            ..Default::default()
        },
    )
    .unwrap();
    assert_eq!(saved, [ChannelRenormalization { scale: (1.0 / 3.0_f64) as f32, shift: 1.5 }]);
    assert_eq!((y, mean, variance, tracked), ([1.5], [1.0], [4.0], 5));
}

#[test]
fn a_statistic_that_is_not_a_number_stays_one() {
    let (bn, plan) = planned(&[2, 2], Layout::ChannelsFirst, Convention::pytorch());
    let (mut mean, mut variance, mut y) = ([f64::NAN, 0.0], [1.0, f64::NAN], [0.0_f64; 4]);
    let mut saved = [ChannelRenormalization::default(); 2];
    let buffers = TrainingBuffers {
        input: &[1.0, 1.0, 3.0, 3.0],
        output: &mut y,
        running: Some(RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None }),
        renormalization: Some(Renormalization { limits: [3.0, 5.0], saved: &mut saved }),
        ..Default::default()
    };
    bn.training(&plan, buffers).unwrap();
    assert!(saved[0].shift.is_nan() && saved[1].shift.is_nan() && saved[1].scale.is_nan());
    assert!(y.iter().all(|y| y.is_nan()));
}

#[test]
fn what_renormalization_lacks_is_an_error_and_nothing_is_written() {
    let descriptor = |segment_running| BatchNormDescriptor {
        channels: 2,
        convention: Convention { segment_running, ..Convention::pytorch() },
        ..Default::default()
    };
    let bn = BatchNorm::new(&descriptor(SegmentRunning::InTurn)).unwrap();
    let plan = bn.plan(&Shape::new(&[4, 2]).unwrap().with_sub_batches(2).unwrap()).unwrap();
    let (x, mut y, mut saved) = ([1.0_f32; 8], [9.0; 8], [ChannelRenormalization::default(); 4]);
    let before = saved;
    let limits = [3.0, 5.0];
    let renormalization = Some(Renormalization { limits, saved: &mut saved });
    let buffers = TrainingBuffers { input: &x, output: &mut y, renormalization, ..Default::default() };
    assert_eq!(bn.training(&plan, buffers), Err(Error::MissingRunningStatistics));
    let running = RunningStatistics { mean: &mut [0.0; 2], variance: &mut [1.0; 2], batches_tracked: None };
    let renormalization = Some(Renormalization { limits, saved: &mut saved[..2] });
    let buffers =
        TrainingBuffers { input: &x, output: &mut y, running: Some(running), renormalization, ..Default::default() };
    let refused = Error::WrongLength { binding: "renormalization.saved", expected: 4, actual: 2 };
    assert_eq!((bn.training(&plan, buffers), y, saved), (Err(refused), [9.0; 8], before));
    let mut dbeta = [9.0; 2];
    let buffers = BackwardBuffers {
        input: &x,
        output_gradient: &x,
        renormalization: Some(&saved[..3]),
        beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
        ..Default::default()
    };
    let refused = Error::WrongLength { binding: "renormalization", expected: 4, actual: 3 };
    assert_eq!((bn.backward(&plan, buffers), dbeta), (Err(refused), [9.0; 2]));
}
