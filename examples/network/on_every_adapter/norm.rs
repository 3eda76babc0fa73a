//! That the library hands the crate the right buffers; what the crate does with them its own tests check.

use wgpu_batch_norm::{Activation, BatchNormDescriptor, BatchNormLayerDescriptor, LayerState, RunningState};

use super::{check, compare, everywhere, input, noise, parameter, random};
use crate::network::context::Context;
use crate::network::norm::{Norm, NormOptions};
use crate::network::tape::Tape;
use crate::network::tensor::Tensor;

const CHANNELS: usize = 6;
const EPSILON: f64 = 1e-5;

fn norm(context: &Context, activation: Activation) -> Norm {
    let batch_norm = BatchNormDescriptor { channels: CHANNELS as u32, activation, ..Default::default() };
    Norm::new(context, &BatchNormLayerDescriptor { batch_norm, ..Default::default() }).unwrap()
}

/// γ·(x − μ)/√(v + ε) + β over rows of `CHANNELS`; statistics of the batch where none are given.
fn reference(x: &[f64], gamma: &[f64], beta: &[f64], recorded: Option<(f64, f64)>) -> Vec<f64> {
    let rows = (x.len() / CHANNELS) as f64;
    let mut y = vec![0.0; x.len()];
    for channel in 0..CHANNELS {
        let values = || x.iter().skip(channel).step_by(CHANNELS);
        let (mean, variance) = recorded.unwrap_or_else(|| {
            let mean = values().sum::<f64>() / rows;
            (mean, values().map(|x| (x - mean).powi(2)).sum::<f64>() / rows)
        });
        for (row, x) in values().enumerate() {
            y[row * CHANNELS + channel] = gamma[channel] * (x - mean) / (variance + EPSILON).sqrt() + beta[channel];
        }
    }
    y
}

fn relu_of_sum(y: &[f64], z: &[f64]) -> Vec<f64> {
    y.iter().zip(z).map(|(y, z)| (y + z).max(0.0)).collect()
}

#[test]
fn batch_norm_in_a_network_has_its_gradients() {
    everywhere(|context| {
        let norm = norm(context, Activation::Identity);
        let mut tape = Tape::new(context);
        let x = input(&tape, &[9, CHANNELS]);
        // Twice, so that gradients of gamma, beta and x add up.
        let outputs = [tape.batch_norm(&norm, &x).unwrap(), tape.batch_norm(&norm, &x).unwrap()];
        let program = tape.finish().unwrap();
        let all: Vec<_> = std::iter::once(parameter(&x)).chain(norm.parameters()).collect();
        check(context, &program, &all, &outputs, |v| vec![reference(&v[0], &v[1], &v[2], None); 2]);
    });
}

#[test]
fn batch_norm_with_residual_and_relu_has_its_gradients_in_both_modes() {
    everywhere(|context| {
        let norm = norm(context, Activation::Relu);
        let mut tape = Tape::new(context);
        let (x, z) = (input(&tape, &[9, CHANNELS]), input(&tape, &[9, CHANNELS]));
        let options = NormOptions { residual: Some(&z), ..Default::default() };
        let y = tape.batch_norm_with(&norm, &x, &options).unwrap();
        let program = tape.finish().unwrap();
        let all: Vec<_> = [parameter(&x), parameter(&z)].into_iter().chain(norm.parameters()).collect();
        let outputs = [y];
        check(context, &program, &all, &outputs, |v| vec![relu_of_sum(&reference(&v[0], &v[2], &v[3], None), &v[1])]);
        norm.eval();
        let (mean, variance) = (0.25, 0.5);
        let running = RunningState { mean: vec![0.25; CHANNELS], variance: vec![0.5; CHANNELS], batches_tracked: 1 };
        let state =
            LayerState { gamma: Some(vec![1.0; CHANNELS]), beta: Some(vec![0.0; CHANNELS]), running: Some(running) };
        norm.layer.load_state(&context.gpu.queue, &state).unwrap();
        check(context, &program, &all, &outputs, |v| {
            vec![relu_of_sum(&reference(&v[0], &v[2], &v[3], Some((mean, variance))), &v[1])]
        });
    });
}

#[test]
fn renormalised_batch_norm_has_its_gradients() {
    everywhere(|context| {
        let norm = norm(context, Activation::Identity);
        let mut tape = Tape::new(context);
        let x = input(&tape, &[9, CHANNELS]);
        let (r_max, d_max) = (1.5, 2.0);
        let limits = context.upload("limits", &[r_max as f32, d_max as f32]);
        let options = NormOptions { renormalization: Some(&limits), ..Default::default() };
        let outputs = [tape.batch_norm_with(&norm, &x, &options).unwrap()];
        let program = tape.finish().unwrap();
        // So far from any batch that both corrections stand at their limits, where they are the same for moved inputs too.
        let running = RunningState { mean: vec![-10.0; CHANNELS], variance: vec![0.01; CHANNELS], batches_tracked: 0 };
        let state =
            LayerState { gamma: Some(vec![1.0; CHANNELS]), beta: Some(vec![0.0; CHANNELS]), running: Some(running) };
        norm.load(context, &state).unwrap();
        let all: Vec<_> = std::iter::once(parameter(&x)).chain(norm.parameters()).collect();
        check(context, &program, &all, &outputs, |v| {
            let plain = reference(&v[0], &[1.0; CHANNELS], &[0.0; CHANNELS], None);
            let corrected =
                |(index, x): (usize, f64)| v[1][index % CHANNELS] * (x * r_max + d_max) + v[2][index % CHANNELS];
            vec![plain.into_iter().enumerate().map(corrected).collect()]
        });
    });
}

#[test]
fn statistics_of_all_data_take_the_place_of_the_running_ones() {
    everywhere(|context| {
        let norm = norm(context, Activation::Identity);
        let x = noise(&mut random(), 9 * CHANNELS);
        let data = Tensor::data(context.upload("x", &x), &[9, CHANNELS]);
        let mut tape = Tape::forward_only(context);
        let y = tape.batch_norm_recorded_anew(&norm, &data).unwrap();
        let program = tape.finish().unwrap();
        context.gpu.submit(|pass| program.record(pass));
        let x: Vec<f64> = x.into_iter().map(f64::from).collect();
        let expected = reference(&x, &[1.0; CHANNELS], &[0.0; CHANNELS], None);
        compare("normalised", &context.read(&y.values), &expected);
        let running = norm.state(context).unwrap().running.unwrap();
        for channel in 0..CHANNELS {
            let values = || x.iter().skip(channel).step_by(CHANNELS);
            let mean = values().sum::<f64>() / 9.0;
            let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / 8.0;
            approx::assert_relative_eq!(f64::from(running.mean[channel]), mean, max_relative = 1e-5);
            approx::assert_relative_eq!(f64::from(running.variance[channel]), variance, max_relative = 1e-5);
        }
    });
}
