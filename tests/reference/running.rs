//! Conventions, policies and the health report.

use approx::assert_relative_eq;
use wgpu_batch_norm::reference::{RunningStatistics, TrainingBuffers};
use wgpu_batch_norm::{
    ChannelHealth, Convention, EmptyBatchPolicy, Error, Layout, Momentum, NonFinitePolicy, OneSamplePolicy,
};

use super::planned;

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
                beta: Some(&[0.5, -0.5]),
                running: Some(running),
                ..Default::default()
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

/// Five channels of four values: fine, with a NaN, with an infinity, constant, and squares that overflow f32.
const UNHEALTHY: [f32; 20] = [
    1.0,
    1.0,
    1.0,
    7.0,
    1e30, //
    2.0,
    f32::NAN,
    2.0,
    7.0,
    -1e30, //
    4.0,
    3.0,
    f32::INFINITY,
    7.0,
    1e30, //
    9.0,
    4.0,
    4.0,
    7.0,
    -1e30,
];

#[test]
fn a_channel_that_is_not_finite_leaves_its_running_statistics_alone_where_the_policy_says_so() {
    for momentum in [Momentum::WeightOfNew(0.25), Momentum::CumulativeAverage] {
        let run = |non_finite: NonFinitePolicy| {
            let convention = Convention { momentum, non_finite, ..Convention::onnx() };
            let (bn, plan) = planned(&[4, 5], Layout::ChannelsFirst, convention);
            let (mut m, mut v, mut tracked, mut y) = ([10.0_f32; 5], [20.0_f32; 5], 3, [0.0; 20]);
            let running = RunningStatistics { mean: &mut m, variance: &mut v, batches_tracked: Some(&mut tracked) };
            let buffers =
                TrainingBuffers { input: &UNHEALTHY, output: &mut y, running: Some(running), ..Default::default() };
            bn.training(&plan, buffers).unwrap();
            (m, v, tracked, y)
        };
        let (updated, skipped) = (run(NonFinitePolicy::Update), run(NonFinitePolicy::SkipRunningUpdate));
        for channel in [0, 3] {
            assert_eq!((skipped.0[channel], skipped.1[channel]), (updated.0[channel], updated.1[channel]));
            assert!(skipped.0[channel] != 10.0 && skipped.1[channel] != 20.0);
        }
        for channel in [1, 2, 4] {
            assert_eq!((skipped.0[channel], skipped.1[channel]), (10.0, 20.0));
            assert!(!updated.1[channel].is_finite());
        }
        assert_eq!((updated.2, skipped.2), (4, 4));
        // The policy is about running statistics only.
        assert_eq!(updated.3.map(f32::to_bits), skipped.3.map(f32::to_bits));
    }
}

#[test]
fn health_tells_of_every_channel() {
    let (bn, plan) = planned(&[4, 5], Layout::ChannelsFirst, Convention::pytorch());
    let (mut y, mut health) = ([0.0; 20], [ChannelHealth(77); 5]);
    let buffers =
        TrainingBuffers { input: &UNHEALTHY, output: &mut y, health: Some(&mut health), ..Default::default() };
    bn.training(&plan, buffers).unwrap();
    let (bad, constant) = (ChannelHealth(ChannelHealth::NON_FINITE), ChannelHealth(ChannelHealth::ZERO_VARIANCE));
    assert_eq!(health, [ChannelHealth(0), bad, bad, constant, bad]);
    assert_eq!(health.map(ChannelHealth::is_finite), [true, false, false, true, false]);
    assert_eq!(health.map(ChannelHealth::is_constant), [false, false, false, true, false]);

    // Judged as rounded to f32, also for f64: a variance that vanishes there, and a mean that overflows.
    let (bn, plan) = planned(&[2, 2], Layout::ChannelsFirst, Convention::pytorch());
    let (mut y, mut health) = ([0.0; 4], [ChannelHealth(77); 2]);
    let input = [1e-30, 1e200, -1e-30, 1e200_f64];
    bn.training(
        &plan,
        TrainingBuffers { input: &input, output: &mut y, health: Some(&mut health), ..Default::default() },
    )
    .unwrap();
    assert_eq!(health, [constant, ChannelHealth(ChannelHealth::NON_FINITE | ChannelHealth::ZERO_VARIANCE)]);

    // No batch, no news.
    let (bn, plan) = planned(&[0, 2], Layout::ChannelsFirst, Convention::pytorch());
    let mut health = [ChannelHealth(77); 2];
    bn.training::<f32>(&plan, TrainingBuffers { health: Some(&mut health), ..Default::default() }).unwrap();
    assert_eq!(health, [ChannelHealth(77); 2]);
}
