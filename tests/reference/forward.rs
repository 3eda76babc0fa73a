//! Forward: closed forms, invariances, residual, activation and mask.

use approx::assert_relative_eq;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::{InferenceBuffers, RunningStatistics, TrainingBuffers};
use wgpu_batch_norm::{Activation, ChannelStatistics, Convention, Layout, Momentum};

use super::case::{Case, SHAPES};
use super::{ACTIVATIONS, activated, planned};

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
                ..Default::default()
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
            let statistics = RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None };
            let running = running.map(|_| statistics);
            let buffers = TrainingBuffers { input: &x, output: &mut y, running, ..Default::default() };
            bn.training(&plan, buffers).unwrap();
            y
        };
        prop_assert_eq!(run(Momentum::WeightOfNew(momentum), Some(start)), run(Momentum::WeightOfNew(0.1), None));
    }

    #[test]
    fn channels_last_is_channels_first_transposed(
        batch in 1..5_usize, channels in 1..5_usize, length in 2..6_usize, seed in 0..1000_u64,
    ) {
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
fn the_activation_is_applied_to_the_sum_of_scale_shift_and_residual() {
    for (seed, (shape, layout)) in (0..).zip(SHAPES) {
        for activation in ACTIVATIONS {
            for frozen in [false, true] {
                for residual in [false, true] {
                    let case = Case::random(shape, layout, activation, frozen, seed).with_residual(residual);
                    let plain = Case { residual: None, ..case.with_activation(Activation::Identity) };
                    let absent = vec![0.0; case.input.len()];
                    let residual = case.residual.as_ref().unwrap_or(&absent);
                    for ((y, z), scaled) in case.forward().output.iter().zip(residual).zip(plain.forward().output) {
                        let t = if case.residual.is_some() { scaled + z } else { scaled };
                        assert_eq!(y.to_bits(), activation.value(t).to_bits(), "{activation}");
                    }
                }
            }
        }
    }
}

/// The formulas as they stood before there was anything to fuse, in the order of their operations.
#[test]
fn without_an_activation_every_bit_is_that_of_the_plain_formulas() {
    for (seed, (shape, layout)) in (0..).zip(SHAPES) {
        let case = Case::random(shape, layout, Activation::Identity, true, seed).with_residual(false);
        let (mean, variance) = case.frozen.clone().unwrap();
        let (gamma, beta) = (case.gamma.clone().unwrap(), case.beta.clone().unwrap());
        let inverse = |c: usize| 1.0 / (variance[c] + 1e-5).sqrt();
        let got = (case.forward().output, case.backward(case.recompute(), None));
        for (index, x) in case.input.iter().enumerate() {
            let c = case.channel(index);
            let y = gamma[c] * ((x - mean[c]) * inverse(c)) + beta[c];
            assert_eq!(got.0[index].to_bits(), y.to_bits());
            let dx = gamma[c] * inverse(c) * case.output_gradient[index];
            assert_eq!(got.1.input[index].to_bits(), dx.to_bits());
        }

        let case = Case { frozen: None, ..case };
        let got = (case.forward().output, case.backward(case.recompute(), None));
        for c in 0..gamma.len() {
            let of_channel = || (0..case.input.len()).filter(|&index| case.channel(index) == c);
            let count = of_channel().count() as f64;
            let values = || of_channel().map(|index| case.input[index]);
            let pivot = values().next().unwrap();
            let rough = pivot + values().map(|x| x - pivot).sum::<f64>() / count;
            let mean = rough + values().map(|x| x - rough).sum::<f64>() / count;
            let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            let inverse = 1.0 / (variance + 1e-5).sqrt();
            let normalised = |index: usize| (case.input[index] - mean) * inverse;
            let (mut sum, mut product_sum) = (0.0, 0.0);
            for index in of_channel() {
                sum += case.output_gradient[index];
                product_sum += case.output_gradient[index] * normalised(index);
            }
            assert_eq!(got.1.beta[c].to_bits(), f64::to_bits(sum));
            assert_eq!(got.1.gamma[c].to_bits(), f64::to_bits(product_sum));
            for index in of_channel() {
                assert_eq!(got.0[index].to_bits(), (gamma[c] * normalised(index) + beta[c]).to_bits());
                let centred = case.output_gradient[index] - sum / count - normalised(index) * (product_sum / count);
                assert_eq!(got.1.input[index].to_bits(), (gamma[c] * inverse * centred).to_bits());
                assert_eq!(got.1.residual[index].to_bits(), case.output_gradient[index].to_bits());
            }
        }
    }
}

#[test]
fn an_absent_residual_leaves_a_negative_zero_alone() {
    let (bn, plan) = planned(&[2, 1], Layout::ChannelsFirst, Convention::pytorch());
    let mut y = [9.0_f32; 2];
    let buffers = InferenceBuffers {
        input: &[-0.0, 0.0],
        output: &mut y,
        beta: Some(&[-0.0]),
        running_mean: &[0.0],
        running_variance: &[1.0],
        ..Default::default()
    };
    bn.inference(&plan, buffers).unwrap();
    assert_eq!(y.map(f32::to_bits), [(-0.0_f32).to_bits(), 0]);
}

#[test]
fn a_mask_has_the_sign_of_every_pre_activation_and_nothing_past_the_end() {
    // 35 and 96 elements: with and without bits past the end; element 3 is exactly 0, element 4 a NaN.
    for (shape, layout) in [([7, 5], Layout::ChannelsFirst), ([32, 3], Layout::ChannelsLast)] {
        for activation in ACTIVATIONS.into_iter().filter(|activation| activation.is_piecewise_linear()) {
            let (bn, plan) = activated(&shape, layout, activation);
            let (elements, channels) = (shape[0] * shape[1], shape[1]);
            let mut x: Vec<f32> = (0..elements).map(|i| ((i * 7) % 11) as f32 - 4.5).collect();
            (x[3], x[4]) = (0.0, f32::NAN);
            let (mut y, mut mask) = (vec![0.0; elements], vec![u32::MAX; elements.div_ceil(32)]);
            let buffers = InferenceBuffers {
                input: &x,
                output: &mut y,
                running_mean: &vec![0.0; channels],
                running_variance: &vec![1.0; channels],
                activation_mask: Some(&mut mask),
                ..Default::default()
            };
            bn.inference(&plan, buffers).unwrap();
            for bit in 0..32 * mask.len() {
                let expected = bit < elements && x[bit] > 0.0;
                assert_eq!(mask[bit / 32] >> (bit % 32) & 1 == 1, expected, "bit {bit} of {activation}");
            }
            assert!(y[4].is_nan());
        }
    }
    // Training writes the same words as inference with the batch's statistics.
    for (seed, (shape, layout)) in (0..).zip(SHAPES) {
        let case = Case::random(shape, layout, Activation::Relu, false, seed);
        let forward = case.forward();
        let t = case.with_activation(Activation::Identity).forward().output;
        for bit in 0..32 * forward.mask.len() {
            let expected = t.get(bit).is_some_and(|t| *t > 0.0);
            assert_eq!(forward.mask[bit / 32] >> (bit % 32) & 1 == 1, expected);
        }
    }
}
