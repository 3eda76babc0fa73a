//! How far a device may be from the reference, and why. All tolerances of the device tests stand here.
//!
//! The model bounds f32 arithmetic with unit roundoff u = 2⁻²⁴ that sums by blocks and trees (`2 + log2 M` roundings on
//! the longest path), keeps the mean as pivot plus offset, and refines the inverse deviation to about one ULP. It has no
//! term in |mean|/deviation: a kernel that loses digits to a large mean fails. Every bound is per channel and absolute;
//! a result below the smallest normal f32 may be flushed, so that much is always allowed. A tensor of a 16-bit type is
//! rounded to it once more.
//!
//! An activation passes an error of its argument on with its largest derivative, and has one of its own, since WGSL grants
//! exp 3 + 2|x| units in the last place.

use wgpu_batch_norm::{Activation, ElementType, Shape};

use super::case::{Case, Results};

const U: f64 = 1.0 / (1 << 24) as f64;

/// Of SiLU (1.0998) and GELU (1.1290), and their second derivatives are smaller.
const LARGEST_DERIVATIVE: f64 = 1.13;

/// Of an activation with exp in it, relative to the pre-activation.
const EVALUATION: f64 = 16.0 * U;

/// The largest error of a comparison, as a multiple of its tolerance, with where it stands.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    pub ratio: f64,
    pub place: String,
}

impl Worst {
    /// As `see`, for an element of a tensor.
    fn see_element(
        &mut self,
        name: &str,
        index: usize,
        (element, got): (ElementType, &[f32]),
        truth: &[f32],
        tolerance: f64,
    ) {
        let (relative, smallest) = match element {
            ElementType::F16 => (2_f64.powi(-11), 2_f64.powi(-25)),
            ElementType::Bf16 => (2_f64.powi(-8), 0.0),
            _ => (0.0, 0.0),
        };
        let rounding = (relative * (f64::from(truth[index]).abs() + tolerance)).max(smallest);
        self.see(name, index, got[index], truth[index], tolerance + rounding);
    }

    fn see(&mut self, name: &str, index: usize, got: f32, truth: f32, tolerance: f64) {
        let error = (f64::from(got) - f64::from(truth)).abs();
        // The truth is rounded to f32 itself.
        let allowed = tolerance + 0.5 * U * f64::from(truth).abs() + f64::from(f32::MIN_POSITIVE);
        let same = got.to_bits() == truth.to_bits() || got == truth;
        let ratio = if same { 0.0 } else { error / allowed };
        // NaN where a number is due must not compare as small.
        if ratio > self.ratio || ratio.is_nan() {
            let ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
            *self = Self { ratio, place: format!("{name}[{index}] = {got:e}, truth {truth:e}, allowed {allowed:e}") };
        }
    }
}

/// Compares everything that training, inference and both backwards produced.
pub fn compare(case: &Case, got: &Results, truth: &Results) -> Worst {
    let mut worst = Worst::default();
    let problem = Shape::new(&case.shape).unwrap().problem(case.layout).unwrap();
    if problem.count() == 0 {
        compare_exactly(&mut worst, got, truth);
        return worst;
    }
    assert_eq!(got.batches_tracked, truth.batches_tracked, "batches_tracked");
    let channels = case.channels();
    let mut elements = vec![Vec::new(); channels];
    for index in 0..case.input.len() {
        elements[case.channel(index)].push(index);
    }
    let preactivations = [false, true].map(|frozen| match case.activation {
        Activation::Identity => Vec::new(),
        _ => case.preactivations(frozen),
    });
    for (channel, indices) in elements.iter().enumerate() {
        compare_channel(&mut worst, (case, &preactivations), got, truth, channel, indices);
    }
    worst
}

fn compare_exactly(worst: &mut Worst, got: &Results, truth: &Results) {
    for (name, got, truth) in [
        ("running_mean", &got.running_mean, &truth.running_mean),
        ("running_variance", &got.running_variance, &truth.running_variance),
        ("gamma_gradient", &got.gamma_gradient, &truth.gamma_gradient),
        ("beta_gradient", &got.beta_gradient, &truth.beta_gradient),
        ("frozen_gamma_gradient", &got.frozen_gamma_gradient, &truth.frozen_gamma_gradient),
        ("frozen_beta_gradient", &got.frozen_beta_gradient, &truth.frozen_beta_gradient),
    ] {
        for (index, (&got, &truth)) in got.iter().zip(truth).enumerate() {
            worst.see(name, index, got, truth, 0.0);
        }
    }
}

/// The statistics that a channel is normalised with, and how well a device may know them.
struct Normalizer {
    mean: f64,
    inverse: f64,
    mean_error: f64,
    inverse_relative_error: f64,
}

fn compare_channel(
    worst: &mut Worst,
    (case, preactivations): (&Case, &[Vec<f64>; 2]),
    got: &Results,
    truth: &Results,
    channel: usize,
    indices: &[usize],
) {
    let count = indices.len() as f64;
    let path = 2.0 + count.log2();
    let values = || indices.iter().map(|&index| f64::from(case.input[index]));
    let epsilon = case.convention.epsilon;
    let invert = |variance: f64| if variance + epsilon == 0.0 { 0.0 } else { 1.0 / (variance + epsilon).sqrt() };

    let mean = values().sum::<f64>() / count;
    let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let deviation = values().map(|x| (x - mean).abs()).sum::<f64>() / count;
    // The pivot is one of the values, so the offset, rounded to f32, is no larger than the largest deviation.
    let largest_deviation = values().map(|x| (x - mean).abs()).fold(0.0, f64::max);
    let magnitude = values().map(f64::abs).sum::<f64>() / count;
    let pivoted = U * (path * deviation + largest_deviation) + 2_f64.powi(-44) * mean.abs();
    // Where the mean is small against the deviation, no worse than a tree over the values themselves.
    let mean_error = pivoted.min(U * path * magnitude);
    let variance_error = U * (6.0 + 2.0 * path) * variance + mean_error.powi(2);
    let batch = Normalizer {
        mean,
        inverse: invert(variance),
        mean_error,
        inverse_relative_error: 4.0 * U + 0.5 * variance_error / (variance + epsilon).max(1e-300),
    };

    // Rounding of `pivot + offset` to one f32 comes on top where the mean leaves the device as one number.
    let reported_mean_error = mean_error + U * mean.abs();
    if let (Some(got), Some(truth)) = (got.saved.get(channel), truth.saved.get(channel)) {
        worst.see("saved.mean", channel, got.mean(), truth.mean(), reported_mean_error);
        worst.see("saved.variance", channel, got.variance, truth.variance, variance_error);
        let tolerance = batch.inverse_relative_error * batch.inverse;
        worst.see("saved.inverse_deviation", channel, got.inverse_deviation, truth.inverse_deviation, tolerance);
    }
    let weight = case.convention.momentum.weight_of_new(u64::from(case.batches_tracked.unwrap_or(0)));
    let factor = case.convention.running_variance.factor(indices.len() as u64);
    let blend = |error: f64, old: f32, new: f64| {
        weight.abs() * error + 4.0 * U * ((1.0 - weight).abs() * f64::from(old).abs() + weight.abs() * new.abs())
    };
    worst.see(
        "running_mean",
        channel,
        got.running_mean[channel],
        truth.running_mean[channel],
        blend(reported_mean_error, case.running_mean[channel], mean),
    );
    worst.see(
        "running_variance",
        channel,
        got.running_variance[channel],
        truth.running_variance[channel],
        blend(factor * variance_error, case.running_variance[channel], factor * variance),
    );

    let running_mean = f64::from(case.running_mean[channel]);
    let farthest = values().map(|x| (x - running_mean).abs()).fold(0.0, f64::max);
    let frozen = Normalizer {
        mean: running_mean,
        inverse: invert(f64::from(case.running_variance[channel])),
        mean_error: 2.0 * U * farthest,
        inverse_relative_error: 4.0 * U,
    };

    if let (Some(got), Some(truth)) = (got.health.get(channel), truth.health.get(channel)) {
        assert_eq!(got, truth, "health of channel {channel}");
    }

    let gamma = case.gamma.as_ref().map_or(1.0, |gamma| f64::from(gamma[channel]));
    let beta = case.beta.as_ref().map_or(0.0, |beta| f64::from(beta[channel]));
    let element = case.element;
    let smooth = !case.activation.is_piecewise_linear();
    // How far off the pre-activation is, and the largest of it.
    let preactivation = |normalizer: &Normalizer| {
        let normalised = |index: usize| (f64::from(case.input[index]) - normalizer.mean) * normalizer.inverse;
        let largest = indices.iter().map(|&index| normalised(index).abs()).fold(0.0, f64::max);
        let added = case
            .residual
            .as_ref()
            .map_or(0.0, |residual| indices.iter().map(|&index| f64::from(residual[index]).abs()).fold(0.0, f64::max));
        let error =
            normalizer.mean_error * normalizer.inverse + largest * (normalizer.inverse_relative_error + 4.0 * U);
        let magnitude = beta.abs() + gamma.abs() * largest + added;
        (gamma.abs() * error + 4.0 * U * magnitude, magnitude)
    };
    for (normalizer, frozen, (got, got_mask), (truth, truth_mask), name) in [
        (&batch, false, (&got.output, &got.mask), (&truth.output, &truth.mask), "output"),
        (&frozen, true, (&got.inference, &got.inference_mask), (&truth.inference, &truth.inference_mask), "inference"),
    ] {
        let (error, magnitude) = preactivation(normalizer);
        let tolerance = match case.activation {
            Activation::Identity => error,
            _ if smooth => LARGEST_DERIVATIVE * error + EVALUATION * magnitude.max(1.0),
            _ => error + 2.0 * U * magnitude,
        };
        for &index in indices {
            worst.see_element(name, index, (element, got), truth, tolerance);
            let bit = |mask: &[u32]| mask.get(index / 32).map(|word| word >> (index % 32) & 1);
            // Near 0 either sign will do; the gradient is 0 there.
            let near = case.output_gradient[index] == 0.0;
            assert!(near || bit(got_mask) == bit(truth_mask), "mask of {name}[{index}], frozen: {frozen}");
        }
    }

    for (normalizer, through_statistics, input, residual, gamma_gradient, beta_gradient) in [
        (
            &batch,
            true,
            (&got.input_gradient, &truth.input_gradient),
            (&got.residual_gradient, &truth.residual_gradient),
            (&got.gamma_gradient, &truth.gamma_gradient),
            (&got.beta_gradient, &truth.beta_gradient),
        ),
        (
            &frozen,
            false,
            (&got.frozen_input_gradient, &truth.frozen_input_gradient),
            (&got.frozen_residual_gradient, &truth.frozen_residual_gradient),
            (&got.frozen_gamma_gradient, &truth.frozen_gamma_gradient),
            (&got.frozen_beta_gradient, &truth.frozen_beta_gradient),
        ),
    ] {
        let normalised = |index: usize| (f64::from(case.input[index]) - normalizer.mean) * normalizer.inverse;
        // h, the gradient before the activation.
        let gradient = |index: usize| {
            let g = f64::from(case.output_gradient[index]);
            let t = preactivations[usize::from(!through_statistics)].get(index);
            t.map_or(g, |&t| if g == 0.0 { 0.0 } else { g * case.activation.derivative(t) })
        };
        let (t_error, t_magnitude) = preactivation(normalizer);
        // How far off h is.
        let h_error = |index: usize| {
            let g = f64::from(case.output_gradient[index]).abs();
            if smooth { g * (t_error + EVALUATION * t_magnitude.max(1.0)) } else { U * g }
        };
        let h_error = |index: usize| if case.activation == Activation::Identity { 0.0 } else { h_error(index) };
        let total = |f: &dyn Fn(usize) -> f64| indices.iter().map(|&index| f(index)).sum::<f64>();
        let largest = |f: &dyn Fn(usize) -> f64| indices.iter().map(|&index| f(index).abs()).fold(0.0, f64::max);
        let (sum, product) = (total(&|i| gradient(i)), total(&|i| gradient(i) * normalised(i)));
        let magnitude = total(&|i| gradient(i).abs());
        let product_magnitude = total(&|i| (gradient(i) * normalised(i)).abs());
        let sum_error = U * path * magnitude + total(&h_error);
        let product_error = total(&|i| h_error(i) * normalised(i).abs())
            + U * (path + 6.0) * product_magnitude
            + normalizer.inverse_relative_error * product.abs()
            + normalizer.mean_error * normalizer.inverse * sum.abs();
        // Accumulation adds one rounding of the sum with what was there, at most 3 in magnitude.
        let accumulation = if case.accumulates { 4.0 * U } else { 0.0 };
        worst.see(
            "gamma_gradient",
            channel,
            gamma_gradient.0[channel],
            gamma_gradient.1[channel],
            product_error + accumulation + U * f64::from(gamma_gradient.1[channel]).abs(),
        );
        worst.see(
            "beta_gradient",
            channel,
            beta_gradient.0[channel],
            beta_gradient.1[channel],
            sum_error + accumulation + U * f64::from(beta_gradient.1[channel]).abs(),
        );
        let (highest, farthest) = (largest(&|i| gradient(i)), largest(&|i| normalised(i)));
        let x_error =
            normalizer.mean_error * normalizer.inverse + farthest * (normalizer.inverse_relative_error + 4.0 * U);
        let (inner, inner_error) = if through_statistics {
            let inner = highest + sum.abs() / count + farthest * product.abs() / count;
            let error = 4.0 * U * inner
                + sum_error / count
                + farthest * product_error / count
                + x_error * product.abs() / count;
            (inner, error + largest(&h_error))
        } else {
            (highest, 2.0 * U * highest + largest(&h_error))
        };
        let scale = gamma.abs() * normalizer.inverse;
        let tolerance = scale * (inner_error + (normalizer.inverse_relative_error + 4.0 * U) * inner) + accumulation;
        for &index in indices {
            let truth = input.1[index];
            let tolerance = if case.accumulates { tolerance + U * f64::from(truth).abs() } else { tolerance };
            worst.see_element("input_gradient", index, (element, input.0), input.1, tolerance);
            if let Some(&truth) = residual.1.get(index) {
                let tolerance = h_error(index) + accumulation + U * f64::from(truth).abs();
                worst.see_element("residual_gradient", index, (element, residual.0), residual.1, tolerance);
            }
        }
    }
}
