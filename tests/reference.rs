//! The reference, proved before it proves anything else: closed forms, finite differences, conventions, policies.

use approx::{assert_abs_diff_eq, assert_relative_eq};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::{
    BackwardBuffers, BatchNorm, FrozenBackwardBuffers, Gradient, InferenceBuffers, Plan, RunningStatistics,
    TrainingBuffers,
};
use wgpu_batch_norm::{
    BatchNormDescriptor, ChannelStatistics, Convention, EmptyBatchPolicy, Error, Layout, Momentum, OneSamplePolicy,
    RunningVariance, Shape,
};

fn planned(shape: &[usize], layout: Layout, convention: Convention) -> (BatchNorm, Plan) {
    let channels = shape[layout.channel_axis(shape.len())] as u32;
    let bn = BatchNorm::new(&BatchNormDescriptor { channels, layout, convention, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
    (bn, plan)
}

#[test]
fn training_forward_of_an_arithmetic_sequence_is_its_closed_form() {
    // 0..n has mean (n − 1)/2 and population variance (n² − 1)/12.
    for n in [2_usize, 3, 10, 1000] {
        let convention = Convention { epsilon: 0.0, ..Convention::pytorch() };
        let (bn, plan) = planned(&[n, 1], Layout::ChannelsFirst, convention);
        let x: Vec<f64> = (0..n).map(|i| i as f64).collect();
        let mut y = vec![0.0; n];
        let (mut running_mean, mut running_variance) = ([5.0], [7.0]);
        let mut saved = [ChannelStatistics::default()];
        bn.training(
            &plan,
            TrainingBuffers {
                input: &x,
                output: &mut y,
                gamma: Some(&[2.0]),
                beta: Some(&[3.0]),
                running: Some(RunningStatistics {
                    mean: &mut running_mean,
                    variance: &mut running_variance,
                    batches_tracked: None,
                }),
                saved: Some(&mut saved),
            },
        )
        .unwrap();
        let n = n as f64;
        let (mean, variance) = ((n - 1.0) / 2.0, (n * n - 1.0) / 12.0);
        for (x, y) in x.iter().zip(&y) {
            assert_relative_eq!(*y, 2.0 * (x - mean) / variance.sqrt() + 3.0, max_relative = 1e-12, epsilon = 1e-12);
        }
        assert_relative_eq!(running_mean[0], 0.9 * 5.0 + 0.1 * mean, max_relative = 1e-14);
        assert_relative_eq!(running_variance[0], 0.9 * 7.0 + 0.1 * variance * n / (n - 1.0), max_relative = 1e-14);
        assert_relative_eq!(saved[0].mean(), mean as f32, max_relative = 1e-7);
        assert_relative_eq!(saved[0].variance, variance as f32, max_relative = 1e-7);
    }
}

#[test]
fn a_constant_channel_gives_exactly_beta() {
    for epsilon in [0.0, 1e-5] {
        let convention = Convention { epsilon, ..Convention::pytorch() };
        let (bn, plan) = planned(&[7, 3], Layout::ChannelsFirst, convention);
        let x: Vec<f32> = (0..21).map(|i| [0.1, 1e30, -3e-30][i % 3]).collect();
        let mut y = vec![0.0; 21];
        let beta = [1.5, -2.5, 0.25_f32];
        bn.training(&plan, TrainingBuffers { input: &x, output: &mut y, beta: Some(&beta), ..Default::default() })
            .unwrap();
        for (i, y) in y.iter().enumerate() {
            assert_eq!(*y, beta[i % 3]);
        }
    }
}

/// A scalar loss of the forward, `Σ w·y`, so that `w` is the output gradient.
struct Loss {
    bn: BatchNorm,
    plan: Plan,
    weights: Vec<f64>,
    frozen: Option<(Vec<f64>, Vec<f64>)>,
}

impl Loss {
    fn of(&self, x: &[f64], gamma: &[f64], beta: &[f64]) -> f64 {
        let mut y = vec![0.0; x.len()];
        match &self.frozen {
            None => self.bn.training(
                &self.plan,
                TrainingBuffers {
                    input: x,
                    output: &mut y,
                    gamma: Some(gamma),
                    beta: Some(beta),
                    running: None,
                    saved: None,
                },
            ),
            Some((mean, variance)) => self.bn.inference(
                &self.plan,
                InferenceBuffers {
                    input: x,
                    output: &mut y,
                    gamma: Some(gamma),
                    beta: Some(beta),
                    running_mean: mean,
                    running_variance: variance,
                },
            ),
        }
        .unwrap();
        y.iter().zip(&self.weights).map(|(y, w)| y * w).sum()
    }
}

/// Central differences; the step balances truncation (h²) and cancellation (2⁻⁵²/h).
fn difference(values: &mut [f64], index: usize, loss: impl Fn(&[f64]) -> f64) -> f64 {
    let (at, step) = (values[index], 1e-5);
    values[index] = at + step;
    let above = loss(values);
    values[index] = at - step;
    let below = loss(values);
    values[index] = at;
    (above - below) / (2.0 * step)
}

fn check_gradients(shape: &[usize], layout: Layout, frozen: bool, seed: u64) {
    let (bn, plan) = planned(shape, layout, Convention::pytorch());
    let (elements, channels) = (shape.iter().product::<usize>(), plan.problem().channels as usize);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut uniform =
        |count: usize, low: f64, high: f64| -> Vec<f64> { (0..count).map(|_| rng.random_range(low..high)).collect() };
    let mut x = uniform(elements, -2.0, 3.0);
    let (mut gamma, mut beta) = (uniform(channels, -1.5, 1.5), uniform(channels, -1.0, 1.0));
    let weights = uniform(elements, -1.0, 1.0);
    let frozen = frozen.then(|| (uniform(channels, -1.0, 1.0), uniform(channels, 0.3, 2.0)));
    let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; elements], vec![0.0; channels], vec![0.0; channels]);
    let gradients = (
        Some(Gradient::Overwrite(dx.as_mut_slice())),
        Some(Gradient::Overwrite(dgamma.as_mut_slice())),
        Some(Gradient::Overwrite(dbeta.as_mut_slice())),
    );
    match &frozen {
        None => bn.backward(
            &plan,
            BackwardBuffers {
                input: &x,
                output_gradient: &weights,
                gamma: Some(&gamma),
                saved: None,
                input_gradient: gradients.0,
                gamma_gradient: gradients.1,
                beta_gradient: gradients.2,
            },
        ),
        Some((mean, variance)) => bn.backward_frozen(
            &plan,
            FrozenBackwardBuffers {
                input: Some(&x),
                output_gradient: &weights,
                gamma: Some(&gamma),
                running_mean: mean,
                running_variance: variance,
                input_gradient: gradients.0,
                gamma_gradient: gradients.1,
                beta_gradient: gradients.2,
            },
        ),
    }
    .unwrap();
    let loss = Loss { bn, plan, weights, frozen };
    for (index, dx) in dx.into_iter().enumerate() {
        let expected = difference(&mut x, index, |x| loss.of(x, &gamma, &beta));
        assert_abs_diff_eq!(dx, expected, epsilon = 1e-7);
    }
    for index in 0..channels {
        let expected = difference(&mut gamma, index, |gamma| loss.of(&x, gamma, &beta));
        assert_abs_diff_eq!(dgamma[index], expected, epsilon = 1e-7);
        let expected = difference(&mut beta, index, |beta| loss.of(&x, &gamma, beta));
        assert_abs_diff_eq!(dbeta[index], expected, epsilon = 1e-7);
    }
}

#[test]
fn every_gradient_is_the_finite_difference_of_its_forward() {
    let shapes: [(&[usize], Layout); 7] = [
        (&[2, 3], Layout::ChannelsFirst),
        (&[6, 2], Layout::ChannelsLast),
        (&[2, 3, 5], Layout::ChannelsFirst),
        (&[2, 5, 3], Layout::ChannelsLast),
        (&[2, 2, 3, 3], Layout::ChannelsFirst),
        (&[2, 3, 3, 2], Layout::ChannelsLast),
        (&[2, 2, 2, 3, 2], Layout::ChannelsFirst),
    ];
    for (seed, (shape, layout)) in (0..).zip(shapes) {
        check_gradients(shape, layout, false, seed);
        check_gradients(shape, layout, true, seed);
    }
}

proptest! {
    /// Guards against a real failure elsewhere (onnxruntime#29790), where y came from the updated running statistics.
    #[test]
    fn training_output_does_not_depend_on_momentum_or_running_statistics(
        momentum in -2.0..2.0_f64, start in -5.0..5.0_f64, seed in 0..1000_u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let x: Vec<f64> = (0..12).map(|_| rng.random_range(-1.0..1.0)).collect();
        let run = |momentum, running: Option<f64>| {
            let convention = Convention { momentum, ..Convention::pytorch() };
            let (bn, plan) = planned(&[4, 3], Layout::ChannelsFirst, convention);
            let (mut mean, mut variance) = ([running.unwrap_or(0.0); 3], [running.unwrap_or(0.0); 3]);
            let mut y = vec![0.0; 12];
            let running = running.map(|_| RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None });
            let buffers = TrainingBuffers { input: &x, output: &mut y, running, ..Default::default() };
            bn.training(&plan, buffers).unwrap();
            y
        };
        prop_assert_eq!(run(Momentum::WeightOfNew(momentum), Some(start)), run(Momentum::WeightOfNew(0.1), None));
    }

    #[test]
    fn channels_last_is_channels_first_transposed(batch in 1..5_usize, channels in 1..5_usize, length in 2..6_usize, seed in 0..1000_u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let first: Vec<f64> = (0..batch * channels * length).map(|_| rng.random_range(-1.0..1.0)).collect();
        let transpose = |values: &[f64]| -> Vec<f64> {
            (0..values.len())
                .map(|i| {
                    let (n, l, c) = (i / (channels * length), i / channels % length, i % channels);
                    values[(n * channels + c) * length + l]
                })
                .collect()
        };
        let run = |shape: &[usize], layout, input: &[f64]| {
            let (bn, plan) = planned(shape, layout, Convention::pytorch());
            let mut output = vec![0.0; input.len()];
            bn.training(&plan, TrainingBuffers { input, output: &mut output, ..Default::default() }).unwrap();
            output
        };
        let y_first = run(&[batch, channels, length], Layout::ChannelsFirst, &first);
        let y_last = run(&[batch, length, channels], Layout::ChannelsLast, &transpose(&first));
        for (a, b) in transpose(&y_first).iter().zip(&y_last) {
            prop_assert!((a - b).abs() < 1e-12);
        }
    }
}

#[test]
fn conventions_differ_where_they_say() {
    let x = [1.0_f64, 2.0, 4.0, 9.0];
    let (mean, variance) = (4.0, 9.5);
    let run = |convention: Convention, tracked: Option<u32>| {
        let (bn, plan) = planned(&[4, 1], Layout::ChannelsFirst, convention);
        let (mut m, mut v, mut y, mut tracked) = ([10.0], [20.0], [0.0; 4], tracked);
        let running = RunningStatistics { mean: &mut m, variance: &mut v, batches_tracked: tracked.as_mut() };
        let buffers = TrainingBuffers { input: &x, output: &mut y, running: Some(running), ..Default::default() };
        bn.training(&plan, buffers).unwrap();
        (m[0], v[0], tracked)
    };
    let expect = |weight: f64, factor: f64| {
        (10.0 * (1.0 - weight) + weight * mean, 20.0 * (1.0 - weight) + weight * variance * factor)
    };
    let cumulative = Convention { momentum: Momentum::CumulativeAverage, ..Convention::pytorch() };
    let rows = [
        (Convention::pytorch(), None, expect(0.1, 4.0 / 3.0), None),
        (Convention::onnx(), Some(6), expect(0.1, 1.0), Some(7)),
        (Convention::keras(), None, expect(0.01, 1.0), None),
        (Convention::flax(), None, expect(0.01, 1.0), None),
        (Convention::burn(), None, expect(0.1, 1.0), None),
        (cumulative, Some(0), expect(1.0, 4.0 / 3.0), Some(1)),
        (cumulative, Some(3), expect(0.25, 4.0 / 3.0), Some(4)),
    ];
    for (convention, tracked, (mean, variance), counted) in rows {
        let got = run(convention, tracked);
        assert_relative_eq!(got.0, mean, max_relative = 1e-12);
        assert_relative_eq!(got.1, variance, max_relative = 1e-12);
        assert_eq!(got.2, counted);
    }
}

#[test]
fn policies_for_one_sample_and_none() {
    let run = |rows: usize, convention: Convention| {
        let (bn, plan) = planned(&[rows, 2], Layout::ChannelsFirst, convention);
        let x = vec![3.0_f64; rows * 2];
        let (mut m, mut v, mut y) = ([1.0; 2], [1.0; 2], vec![9.0; rows * 2]);
        let running = RunningStatistics { mean: &mut m, variance: &mut v, batches_tracked: None };
        let result = bn.training(
            &plan,
            TrainingBuffers {
                input: &x,
                output: &mut y,
                gamma: None,
                beta: Some(&[0.5, -0.5]),
                running: Some(running),
                saved: None,
            },
        );
        (result, m, v, y)
    };
    assert_eq!(run(1, Convention::pytorch()), (Err(Error::OneSample), [1.0; 2], [1.0; 2], vec![9.0; 2]));
    let population = Convention { one_sample: OneSamplePolicy::PopulationVariance, ..Convention::pytorch() };
    let (result, m, v, y) = run(1, population);
    assert_eq!((result, y), (Ok(()), vec![0.5, -0.5]));
    assert_relative_eq!(m[0], 0.9 + 0.3, max_relative = 1e-12);
    assert_relative_eq!(v[0], 0.9, max_relative = 1e-12);
    let skip = Convention { one_sample: OneSamplePolicy::SkipRunningUpdate, ..Convention::pytorch() };
    assert_eq!(run(1, skip), (Ok(()), [1.0; 2], [1.0; 2], vec![0.5, -0.5]));
    assert_eq!(run(0, Convention::pytorch()), (Ok(()), [1.0; 2], [1.0; 2], vec![]));
    let strict = Convention { empty_batch: EmptyBatchPolicy::Error, ..Convention::pytorch() };
    assert_eq!(run(0, strict).0, Err(Error::EmptyBatch));
}

#[test]
fn an_empty_batch_has_zero_parameter_gradients_and_adds_nothing() {
    let (bn, plan) = planned(&[0, 2, 5], Layout::ChannelsFirst, Convention::pytorch());
    let (mut dgamma, mut dbeta) = ([7.0_f32; 2], [7.0_f32; 2]);
    bn.backward::<f32>(
        &plan,
        BackwardBuffers {
            input: &[],
            output_gradient: &[],
            gamma: None,
            saved: None,
            input_gradient: Some(Gradient::Overwrite(&mut [])),
            gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
            beta_gradient: Some(Gradient::Accumulate(&mut dbeta)),
        },
    )
    .unwrap();
    assert_eq!((dgamma, dbeta), ([0.0; 2], [7.0; 2]));
}

#[test]
fn astronomically_many_empty_rows_take_no_time() {
    let bn = BatchNorm::new(&BatchNormDescriptor { channels: 3, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::flat(usize::MAX, 3, 0)).unwrap();
    let mut dbeta = [7.0_f32; 3];
    bn.backward::<f32>(
        &plan,
        BackwardBuffers {
            input: &[],
            output_gradient: &[],
            gamma: None,
            saved: None,
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
        },
    )
    .unwrap();
    assert_eq!(dbeta, [0.0; 3]);
}

#[test]
fn the_gradient_of_gamma_needs_the_input_and_no_other_frozen_gradient_does() {
    let (bn, plan) = planned(&[2, 1], Layout::ChannelsFirst, Convention { epsilon: 0.0, ..Convention::pytorch() });
    let (mut dx, mut dgamma) = ([0.0_f64; 2], [0.0_f64]);
    fn buffers<'a>(dx: &'a mut [f64], gamma_gradient: Option<Gradient<'a, f64>>) -> FrozenBackwardBuffers<'a, f64> {
        FrozenBackwardBuffers {
            input: None,
            output_gradient: &[3.0, 5.0],
            gamma: Some(&[2.0]),
            running_mean: &[1.0],
            running_variance: &[4.0],
            input_gradient: Some(Gradient::Overwrite(dx)),
            gamma_gradient,
            beta_gradient: None,
        }
    }
    let both = buffers(&mut dx, Some(Gradient::Overwrite(&mut dgamma)));
    assert_eq!(bn.backward_frozen(&plan, both), Err(Error::MissingInput));
    bn.backward_frozen(&plan, buffers(&mut dx, None)).unwrap();
    assert_eq!(dx, [3.0, 5.0]);
}

#[test]
fn wrong_lengths_are_errors_and_write_nothing() {
    let (bn, plan) = planned(&[2, 2], Layout::ChannelsFirst, Convention::pytorch());
    let mut y = [9.0_f32; 4];
    let short = TrainingBuffers { input: &[1.0; 3], output: &mut y, ..Default::default() };
    let expected = Error::WrongLength { binding: "input", expected: 4, actual: 3 };
    assert_eq!(bn.training(&plan, short), Err(expected));
    let gamma = TrainingBuffers { input: &[1.0; 4], output: &mut y, gamma: Some(&[1.0; 3]), ..Default::default() };
    let expected = Error::WrongLength { binding: "gamma", expected: 2, actual: 3 };
    assert_eq!(bn.training(&plan, gamma), Err(expected));
    assert_eq!(y, [9.0; 4]);
    let other = BatchNorm::new(&BatchNormDescriptor { channels: 3, ..Default::default() }).unwrap();
    let buffers = TrainingBuffers { input: &[1.0; 4], output: &mut y, ..Default::default() };
    assert_eq!(other.training(&plan, buffers), Err(Error::PlanMismatch));
    let (_, other_layout) = planned(&[2, 2], Layout::ChannelsLast, Convention::pytorch());
    let buffers = TrainingBuffers { input: &[1.0; 4], output: &mut y, ..Default::default() };
    assert_eq!(bn.training(&other_layout, buffers), Err(Error::PlanMismatch));
    let cumulative = Convention {
        momentum: Momentum::CumulativeAverage,
        running_variance: RunningVariance::Population,
        ..Convention::pytorch()
    };
    let (bn, plan) = planned(&[2, 2], Layout::ChannelsFirst, cumulative);
    let running = RunningStatistics { mean: &mut [0.0; 2], variance: &mut [0.0; 2], batches_tracked: None };
    let buffers = TrainingBuffers { input: &[1.0; 4], output: &mut y, running: Some(running), ..Default::default() };
    assert_eq!(bn.training(&plan, buffers), Err(Error::MissingBatchesTracked));
}
