//! Segments against plain batches of their own, closed forms, differences and policies.

use approx::{assert_abs_diff_eq, assert_relative_eq};
use proptest::prelude::*;
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, Gradient, InferenceBuffers, OutputBackwardBuffers, Plan,
    RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, BatchNormDescriptor, ChannelHealth, ChannelMoments, ChannelStatistics, Convention, EmptyBatchPolicy,
    Error, Layout, Momentum, NonFinitePolicy, OneSamplePolicy, SegmentRunning, Shape,
};

use super::ACTIVATIONS;
use super::case::Gradients;
use super::parts::{CUTS, Cut, Parts};

pub(crate) const POLICIES: [SegmentRunning; 3] =
    [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate];

/// One channel, first in (samples, channel).
fn one_channel(samples: usize, segments: usize, convention: Convention) -> (BatchNorm, Plan) {
    let bn = BatchNorm::new(&BatchNormDescriptor { channels: 1, convention, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::new(&[samples, 1]).unwrap().with_sub_batches(segments).unwrap()).unwrap();
    (bn, plan)
}

fn conventions() -> impl Strategy<Value = Convention> {
    let base = prop_oneof![Just(Convention::pytorch()), Just(Convention::onnx()), Just(Convention::keras())];
    let momentum = prop_oneof![Just(None), Just(Some(Momentum::CumulativeAverage))];
    (base, momentum, 0..POLICIES.len()).prop_map(|(base, momentum, policy)| Convention {
        momentum: momentum.unwrap_or(base.momentum),
        segment_running: POLICIES[policy],
        ..base
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Also with padding, which leaves some segments with a single sample or none.
    #[test]
    fn segments_are_batches_of_their_own(
        which in 0..CUTS.len(), activation in 0..ACTIVATIONS.len(), convention in conventions(),
        padding in prop_oneof![Just(None), Just(Some(0.2)), Just(Some(0.7))], tracked in 0..5_u32, seed: u64,
    ) {
        let parts = Parts::random(CUTS[which], convention, ACTIVATIONS[activation], padding, seed);
        let running = parts.running(tracked, seed ^ 1);
        let trained = parts.train(running.clone());
        prop_assert_eq!(&trained, &parts.train_apart(&running));
        prop_assert_eq!(parts.infer(&running), parts.infer_apart(&running));
        for frozen in [None, Some(&running)] {
            let expected = parts.backward_apart(frozen);
            let got = parts.backward(frozen, parts.recompute(), None, parts.gradients(f64::NAN), false);
            prop_assert_eq!((&got.input, &got.residual), (&expected.input, &expected.residual));
            // Statistics that segments share are summed over the whole channel at once.
            let sums = got.gamma.iter().zip(&expected.gamma).chain(got.beta.iter().zip(&expected.beta));
            for (got, expected) in sums {
                prop_assert!((got - expected).abs() < 1e-12, "{got} {expected}");
            }
            let onto = parts.backward(frozen, parts.recompute(), None, parts.gradients(2.0), true);
            let sum = |values: &[f64]| -> Vec<f64> { values.iter().map(|value| 2.0 + value).collect() };
            prop_assert_eq!(onto, Gradients {
                input: sum(&got.input),
                gamma: sum(&got.gamma),
                beta: sum(&got.beta),
                residual: sum(&got.residual),
            });
        }
        if parts.activation().is_piecewise_linear() {
            let expected = parts.backward_apart(None);
            let mut words = vec![0; trained.mask.len().div_ceil(32)];
            for (index, &bit) in trained.mask.iter().enumerate() {
                words[index / 32] |= u32::from(bit) << (index % 32);
            }
            for state in [ActivationState::Output(&trained.output), ActivationState::Mask(&words)] {
                let got = parts.backward(None, state, None, parts.gradients(f64::NAN), false);
                prop_assert_eq!(got, expected.clone());
            }
        }
    }

    #[test]
    fn backward_from_the_output_sees_segments_as_backward_from_the_input_does(
        which in 0..CUTS.len(), padding in prop_oneof![Just(None), Just(Some(0.3))], seed: u64,
    ) {
        let activation = Activation::LeakyRelu { slope: 0.25 };
        let mut parts = Parts::random(CUTS[which], Convention::pytorch(), activation, padding, seed);
        parts.residual.fill(0.0);
        for gamma in &mut parts.gamma {
            *gamma += 0.5_f64.copysign(*gamma);
        }
        let trained = parts.train(parts.running(0, 0));
        // As the records have it: backward from the input goes by exact statistics.
        let expected = parts.backward(None, parts.recompute(), None, parts.gradients(0.0), false);
        let mut got = parts.gradients(f64::NAN);
        parts.bn.backward_from_output(&parts.plan, OutputBackwardBuffers {
            output: &trained.output,
            output_gradient: &parts.output_gradient,
            gamma: Some(&parts.gamma),
            beta: Some(&parts.beta),
            saved: &trained.saved,
            valid: parts.valid.as_deref(),
            input_gradient: Some(Gradient::Overwrite(&mut got.input)),
            gamma_gradient: Some(Gradient::Overwrite(&mut got.gamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut got.beta)),
        }).unwrap();
        let scale = trained.saved.iter().map(|record| f64::from(record.inverse_deviation)).fold(1.0, f64::max);
        let pairs = [(&got.input, &expected.input), (&got.gamma, &expected.gamma), (&got.beta, &expected.beta)];
        for (got, expected) in pairs.into_iter().flat_map(|(got, expected)| got.iter().zip(expected)) {
            prop_assert!((got - expected).abs() <= 1e-6 * scale, "{got} {expected}");
        }
    }

    /// A batch's moments by instances are what inference by segments needs, and by channels those of the whole batch.
    #[test]
    fn moments_stand_where_running_statistics_do(
        which in 0..CUTS.len(), padding in prop_oneof![Just(None), Just(Some(0.3))], separate: bool, seed: u64,
    ) {
        let segment_running = if separate { SegmentRunning::Separate } else { SegmentRunning::Averaged };
        let convention = Convention { segment_running, ..Convention::onnx() };
        let parts = Parts::random(CUTS[which], convention, Activation::Identity, padding, seed);
        let mut running = parts.running(0, 1);
        let before = running.clone();
        let records = running.mean.len();
        let mut moments = vec![ChannelMoments::default(); records];
        parts.bn.accumulate(&parts.plan, &parts.input, parts.valid.as_deref(), &mut moments).unwrap();
        let (mut mean, mut variance): (Vec<f32>, Vec<f32>) =
            running.mean.iter().zip(&running.variance).map(|(m, v)| (*m as f32, *v as f32)).unzip();
        parts.bn.population(&moments, &mut mean, &mut variance).unwrap();
        for segment in 0..parts.segments() {
            for channel in 0..parts.channels() {
                let place = if separate { parts.instance(segment, channel) } else { channel };
                let every = |segment| parts.elements(segment, channel);
                let of = if separate { every(segment) } else { (0..parts.segments()).flat_map(every).collect() };
                let count = of.len() as f64;
                prop_assert_eq!(moments[place].count as usize, of.len());
                let sum = |term: &dyn Fn(f64) -> f64| of.iter().map(|&at| term(parts.input[at])).sum::<f64>() / count;
                let (m, v) = if of.is_empty() {
                    prop_assert_eq!(moments[place], ChannelMoments::default());
                    (before.mean[place], before.variance[place])
                } else {
                    let m = sum(&|x| x);
                    (m, sum(&|x| (x - m).powi(2)))
                };
                prop_assert!((f64::from(mean[place]) - m).abs() < 1e-6, "{} {m}", mean[place]);
                prop_assert!((f64::from(variance[place]) - v).abs() < 1e-6, "{} {v}", variance[place]);
                (running.mean[place], running.variance[place]) = (m, v);
            }
        }
    }
}

/// Two segments, of mean 1 and variance 1, and of mean 6 and variance 4.
const TWO: [f64; 4] = [0.0, 2.0, 4.0, 8.0];

#[test]
fn running_statistics_by_every_policy_in_closed_form() {
    let run = |convention: Convention, running: usize, tracked: u32| {
        let (bn, plan) = one_channel(4, 2, convention);
        let (mut mean, mut variance, mut tracked) = (vec![10.0; running], vec![20.0; running], tracked);
        let mut y = [0.0; 4];
        let running =
            RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: Some(&mut tracked) };
        let buffers = TrainingBuffers { input: &TWO, output: &mut y, running: Some(running), ..Default::default() };
        bn.training(&plan, buffers).unwrap();
        (mean, variance, tracked)
    };
    // Unbiased, the variances are 2 and 8.
    let momentum = Momentum::WeightOfNew(0.5);
    type Row<'a> = (SegmentRunning, Momentum, &'a [f64], &'a [f64], u32);
    let rows: [Row<'_>; 6] = [
        (SegmentRunning::InTurn, momentum, &[5.75], &[9.5], 5),
        (SegmentRunning::Averaged, momentum, &[6.75], &[12.5], 4),
        (SegmentRunning::Separate, momentum, &[5.5, 8.0], &[11.0, 14.0], 4),
        // After three batches: a quarter of the first segment and a fifth of the second.
        (SegmentRunning::InTurn, Momentum::CumulativeAverage, &[7.4], &[14.0], 5),
        (SegmentRunning::Averaged, Momentum::CumulativeAverage, &[8.375], &[16.25], 4),
        (SegmentRunning::Separate, Momentum::CumulativeAverage, &[7.75, 9.0], &[15.5, 17.0], 4),
    ];
    for (segment_running, momentum, mean, variance, tracked) in rows {
        let convention = Convention { segment_running, momentum, ..Convention::pytorch() };
        let got = run(convention, mean.len(), 3);
        for (got, expected) in got.0.iter().zip(mean).chain(got.1.iter().zip(variance)) {
            assert_relative_eq!(got, expected, max_relative = 1e-12);
        }
        assert_eq!(got.2, tracked, "{segment_running:?}");
    }
}

#[test]
fn outputs_and_gradients_in_closed_form() {
    let (bn, plan) = one_channel(4, 2, Convention { epsilon: 0.0, ..Convention::pytorch() });
    let (mut y, mut saved, mut health) = ([0.0; 4], [ChannelStatistics::default(); 2], [ChannelHealth(9); 2]);
    bn.training(
        &plan,
        TrainingBuffers {
            input: &TWO,
            output: &mut y,
            gamma: Some(&[3.0]),
            beta: Some(&[1.0]),
            saved: Some(&mut saved),
            health: Some(&mut health),
            ..Default::default()
        },
    )
    .unwrap();
    // x̂ is ∓1 in both.
    assert_eq!((y, health), ([-2.0, 4.0, -2.0, 4.0], [ChannelHealth(0); 2]));
    let record =
        |pivot, inverse_deviation, variance| ChannelStatistics { pivot, offset: 0.0, inverse_deviation, variance };
    assert_eq!(saved, [record(1.0, 1.0, 1.0), record(6.0, 0.5, 4.0)]);
    let (mut dx, mut dgamma, mut dbeta) = ([0.0; 4], [0.0], [10.0]);
    bn.backward(
        &plan,
        BackwardBuffers {
            input: &TWO,
            output_gradient: &[1.0, 2.0, 3.0, 7.0],
            gamma: Some(&[3.0]),
            saved: Some(&saved),
            input_gradient: Some(Gradient::Overwrite(&mut dx)),
            gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
            beta_gradient: Some(Gradient::Accumulate(&mut dbeta)),
            ..Default::default()
        },
    )
    .unwrap();
    // Two elements alone have no gradient: g is all mean and x̂.
    assert_eq!((dx, dgamma, dbeta), ([0.0; 4], [5.0], [23.0]));
}

#[test]
fn every_gradient_of_segments_is_the_finite_difference_of_their_forward() {
    for cut in CUTS {
        for activation in ACTIVATIONS {
            check_differences(cut, activation, None);
        }
    }
}

type Values = fn(&mut Parts) -> &mut Vec<f64>;

/// Every gradient of a random problem against central differences of the loss `Σ g·y`.
pub(crate) fn check_differences(cut: Cut, activation: Activation, padding: Option<f64>) {
    let random = |seed| Parts::random(cut, Convention::pytorch(), activation, padding, seed);
    let parts = (0..).map(random).find(Parts::is_smooth).unwrap();
    let got = parts.backward(None, parts.recompute(), None, parts.gradients(f64::NAN), false);
    let loss = |parts: &Parts| -> f64 {
        parts.train(parts.running(0, 0)).output.iter().zip(&parts.output_gradient).map(|(y, g)| y * g).sum()
    };
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
                loss(&parts)
            };
            let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert_abs_diff_eq!(*gradient, difference, epsilon = 1e-7);
        }
    }
}

#[test]
fn a_segment_that_is_not_finite_is_left_out_where_the_policy_says_so() {
    // The second segment of three is not finite.
    let x = [0.0, 2.0, f64::NAN, 1.0, 4.0, 8.0];
    let run = |segment_running, non_finite| {
        let momentum = Momentum::WeightOfNew(0.5);
        let convention = Convention { segment_running, non_finite, momentum, ..Convention::onnx() };
        let (bn, plan) = one_channel(6, 3, convention);
        let values = if segment_running == SegmentRunning::Separate { 3 } else { 1 };
        let (mut mean, mut variance, mut tracked) = (vec![10.0; values], vec![20.0; values], 7);
        let mut health = [ChannelHealth(9); 3];
        let running =
            RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: Some(&mut tracked) };
        let mut y = [0.0; 6];
        let buffers = TrainingBuffers {
            input: &x,
            output: &mut y,
            running: Some(running),
            health: Some(&mut health),
            ..Default::default()
        };
        bn.training(&plan, buffers).unwrap();
        assert_eq!(health, [ChannelHealth(0), ChannelHealth(ChannelHealth::NON_FINITE), ChannelHealth(0)]);
        (mean, variance, tracked)
    };
    for segment_running in POLICIES {
        let (mean, ..) = run(segment_running, NonFinitePolicy::Update);
        let at = if segment_running == SegmentRunning::Separate { 1 } else { 0 };
        assert!(mean[at].is_nan());
    }
    let skip = NonFinitePolicy::SkipRunningUpdate;
    assert_eq!(run(SegmentRunning::InTurn, skip), (vec![5.75], vec![7.25], 10));
    assert_eq!(run(SegmentRunning::Averaged, skip), (vec![10.0], vec![20.0], 8));
    assert_eq!(run(SegmentRunning::Separate, skip), (vec![5.5, 10.0, 8.0], vec![10.5, 20.0, 12.0], 8));
}

#[test]
fn policies_for_one_sample_and_none_go_by_the_elements_of_a_segment() {
    let run = |one_sample| {
        let convention = Convention { one_sample, momentum: Momentum::WeightOfNew(0.5), ..Convention::pytorch() };
        let (bn, plan) = one_channel(2, 2, convention);
        let (mut mean, mut variance, mut tracked, mut y) = ([10.0], [20.0], 7, [9.0; 2]);
        let running =
            RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: Some(&mut tracked) };
        let buffers = TrainingBuffers {
            input: &[2.0, 4.0],
            output: &mut y,
            beta: Some(&[0.5]),
            running: Some(running),
            ..Default::default()
        };
        let result = bn.training(&plan, buffers);
        let mut dbeta = [9.0];
        let buffers = BackwardBuffers {
            input: &[2.0, 4.0],
            output_gradient: &[1.0; 2],
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        };
        let backward = bn.backward(&plan, buffers);
        (result, backward, mean[0], variance[0], tracked, y)
    };
    let refused = || Err(Error::OneSample);
    assert_eq!(run(OneSamplePolicy::Error), (refused(), refused(), 10.0, 20.0, 7, [9.0; 2]));
    let skipped = run(OneSamplePolicy::SkipRunningUpdate);
    assert_eq!(skipped, (Ok(()), Ok(()), 10.0, 20.0, 7, [0.5; 2]));
    // (10 + 2)/2 and then (6 + 4)/2.
    assert_eq!(run(OneSamplePolicy::PopulationVariance), (Ok(()), Ok(()), 5.0, 5.0, 9, [0.5; 2]));

    let (bn, plan) = one_channel(0, 3, Convention::pytorch());
    let (mut saved, mut dbeta) = ([ChannelStatistics::default(); 3], [9.0]);
    let buffers = TrainingBuffers::<f32> { saved: Some(&mut saved), ..Default::default() };
    assert_eq!((bn.training(&plan, buffers), saved), (Ok(()), [ChannelStatistics::default(); 3]));
    let beta_gradient = Some(Gradient::Overwrite(&mut dbeta[..]));
    let buffers = BackwardBuffers::<f32> { beta_gradient, ..Default::default() };
    assert_eq!((bn.backward(&plan, buffers), dbeta), (Ok(()), [0.0]));
    let strict = Convention { empty_batch: EmptyBatchPolicy::Error, ..Convention::pytorch() };
    let (bn, plan) = one_channel(0, 3, strict);
    assert_eq!(bn.training::<f32>(&plan, TrainingBuffers::default()), Err(Error::EmptyBatch));
}

#[test]
fn lengths_go_by_instances() {
    let x = TWO.map(|x| x as f32);
    let trained = |convention: Convention, change: &dyn Fn(&mut TrainingBuffers<'_, f32>)| {
        let (bn, plan) = one_channel(4, 2, convention);
        let (mut y, mut mean, mut variance) = ([9.0; 4], [0.0; 2], [1.0; 2]);
        let values = if convention.segment_running == SegmentRunning::Separate { 2 } else { 1 };
        let running =
            RunningStatistics { mean: &mut mean[..values], variance: &mut variance[..values], batches_tracked: None };
        let mut buffers = TrainingBuffers { input: &x, output: &mut y, running: Some(running), ..Default::default() };
        change(&mut buffers);
        let result = bn.training(&plan, buffers);
        assert!(result.is_ok() || y == [9.0; 4]);
        result
    };
    let wrong = |binding, expected, actual| Err(Error::WrongLength { binding, expected, actual });
    for segment_running in POLICIES {
        let convention = Convention { segment_running, ..Convention::pytorch() };
        assert_eq!(trained(convention, &|_| {}), Ok(()));
        assert_eq!(trained(convention, &|buffers| buffers.saved = Some(&mut [])), wrong("saved", 2, 0));
        assert_eq!(trained(convention, &|buffers| buffers.health = Some(&mut [])), wrong("health", 2, 0));
        let gamma = trained(convention, &|buffers| buffers.gamma = Some(&[1.0; 2]));
        assert_eq!(gamma, wrong("gamma", 1, 2));

        let (bn, plan) = one_channel(4, 2, convention);
        let values = if segment_running == SegmentRunning::Separate { 2 } else { 1 };
        let (mut y, long) = ([9.0; 4], [1.0_f32; 3]);
        let buffers = InferenceBuffers {
            input: &x,
            output: &mut y,
            running_mean: &long[..values],
            running_variance: &long,
            ..Default::default()
        };
        assert_eq!(bn.inference(&plan, buffers), wrong("running_variance", values as u64, 3));
        assert_eq!(bn.accumulate(&plan, &x, None, &mut []), wrong("moments", values as u64, 0));
        let mut dbeta = [9.0];
        let buffers = BackwardBuffers {
            input: &x,
            output_gradient: &x,
            saved: Some(&[ChannelStatistics::default()]),
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        };
        assert_eq!((bn.backward(&plan, buffers), dbeta), (wrong("saved", 2, 1), [9.0]));
    }
    let separate = Convention { segment_running: SegmentRunning::Separate, ..Convention::pytorch() };
    let one = trained(separate, &|buffers| {
        let running = buffers.running.as_mut().unwrap();
        running.variance = &mut std::mem::take(&mut running.variance)[..1];
    });
    assert_eq!(one, wrong("running.variance", 2, 1));

    // Moments of separate segments come in multiples of the channels.
    let bn = BatchNorm::new(&BatchNormDescriptor { channels: 2, convention: separate, ..Default::default() }).unwrap();
    let records = [ChannelMoments::default(); 4];
    assert_eq!(bn.population(&records, &mut [0.0; 4], &mut [0.0; 4]), Ok(()));
    assert_eq!(bn.population(&records[..3], &mut [0.0; 4], &mut [0.0; 4]), wrong("moments", 4, 3));
    assert_eq!(bn.population(&[], &mut [], &mut []), wrong("moments", 2, 0));
    assert_eq!(bn.population(&records, &mut [0.0; 2], &mut [0.0; 4]), wrong("running_mean", 4, 2));
}

#[test]
fn plans_tell_of_segments_and_refuse_what_is_not_served() {
    let descriptor = BatchNormDescriptor { channels: 3, layout: Layout::ChannelsLast, ..Default::default() };
    let bn = BatchNorm::new(&descriptor).unwrap();
    let shape = || Shape::new(&[4, 2, 5, 3]).unwrap();
    let steps = bn.plan(&shape().with_segments_along(2).unwrap()).unwrap().segmentation();
    assert_eq!((steps.segments(), steps.instances(), steps.count()), (5, 15, 8));
    let whole = bn.plan(&shape()).unwrap().segmentation();
    assert_eq!((whole.segments(), whole.instances(), whole.count()), (1, 3, 40));
    let between = bn.plan(&shape().with_segments_along(1).unwrap());
    assert_eq!(between, Err(Error::SegmentsNotServed { axis: 1 }));
}
