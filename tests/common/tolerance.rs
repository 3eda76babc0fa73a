//! How far a device may be from the reference, and why. All tolerances of the device tests stand here.
//!
//! The model bounds f32 arithmetic with unit roundoff u = 2⁻²⁴ that sums by blocks and trees (`2 + log2 M` roundings on
//! the longest path), keeps the mean as pivot plus offset, and refines the inverse deviation to about one ULP. It has no
//! term in |mean|/deviation: a kernel that loses digits to a large mean fails. Every bound is per channel and absolute;
//! a result below the smallest normal f32 may be flushed, so that much is always allowed. A tensor of a 16-bit type is
//! rounded to it once more.
//!
//! An activation passes an error of its argument on with its largest derivative, and has one of its own, of exp in WGSL and of a
//! division, which WGSL grants 2.5 units in the last place.

use wgpu_batch_norm::{
    Activation, ChannelMoments, ChannelStatistics, Convention, ElementType, Momentum, SegmentRunning, Segmentation,
    Shape,
};

use super::case::{Case, Moments, Results};
use super::from_output::{Kept, OutputGradients};
use super::study::{self, Quantity};

const U: f64 = 1.0 / (1 << 24) as f64;

/// Of SiLU (1.0998) and GELU (1.1290), and their second derivatives are smaller.
const LARGEST_DERIVATIVE: f64 = 1.13;

/// Of an activation with exp in it, relative to the pre-activation.
const EVALUATION: f64 = 16.0 * U;

/// Of an activation with exp in it, relative to a t that is exact but for 1/deviation, which may be off by a unit in the last place, 2 u.
/// exp is off by 1.5 u and 1 + exp by half a one, of which a half at most reaches the quotient; that is off by 2.5 units in the last
/// place by WGSL, 5 u; the two products by 1 u each. Drivers that divide to half a unit are at 4 at most.
pub const ACTIVATION_EVALUATION: f64 = 10.0 * U;

/// Of its derivative, in absolute terms: the same, and a sum in [1, 2).
pub const DERIVATIVE_EVALUATION: f64 = 11.0 * U;

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

    pub fn see(&mut self, name: &str, index: usize, got: f32, truth: f32, tolerance: f64) {
        let error = (f64::from(got) - f64::from(truth)).abs();
        // The truth is rounded to f32 itself, by half a unit in the last place.
        let truth_rounding = U * f64::from(f32::from_bits(truth.to_bits() & f32::INFINITY.to_bits()));
        let allowed = tolerance + truth_rounding + f64::from(f32::MIN_POSITIVE);
        let same = got.to_bits() == truth.to_bits() || got == truth;
        // Nothing is allowed everything.
        let ratio = if same {
            0.0
        } else if allowed.is_finite() {
            error / allowed
        } else {
            f64::NAN
        };
        // NaN where a number is due must not compare as small.
        if ratio > self.ratio || ratio.is_nan() {
            let ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
            *self = Self { ratio, place: format!("{name}[{index}] = {got:e}, truth {truth:e}, allowed {allowed:e}") };
        }
    }
}

/// How far y, dx and what is relative may be off for `count` values of x and g, uniform in ±1 around something, whose inverse
/// deviation is `inverse`; by the model above, in closed form, for tensors that are too large to be looked at twice.
///
/// With p = 2 + log2 M roundings on the longest path: the mean is off by p·u of the spread, half of which is its mean absolute
/// value, the inverse deviation by p·u/2 and four more, the gradient means by p·u of |g| and |g·x̂|, which are at most 1.25 and
/// 1.25·√3.
pub fn uniform_tolerances(count: f64, gamma: f64, inverse: f64, result: f64) -> [f64; 3] {
    let path = (2.0 + count.log2()) * U;
    let largest = 3_f64.sqrt();
    let y = gamma.abs() * (path + largest * (0.5 * path + 4.0 * U)) + 4.0 * U * (result.abs() + gamma.abs() * largest);
    let dx = gamma.abs() * inverse * (path * 1.25 * (1.0 + largest * largest) + 8.0 * U * (2.5 + largest))
        + 4.0 * U * result.abs();
    [y, dx, 2.0 * path + 4.0 * U]
}

/// How far a y of inference in bf16 may be off, of γ·x̂ = `scaled`: four roundings in 1/deviation, four in x − μ, both products and the
/// sum, and its own.
pub fn bf16_inference_tolerance(scaled: f64, y: f64) -> f64 {
    let computed = 8.0 * U * (scaled.abs() + y.abs());
    computed + 2_f64.powi(-8) * (y.abs() + computed)
}

/// How far the results of the error study may be off, in its units: roundoffs of the result's type, over the scales of
/// `study/measure.rs`. In closed form, by the model above, with no term in |mean|/deviation.
///
/// With p = 2 + log2 M: the mean is off by p of mean |x − μ| = √3/2 deviations, the inverse deviation by p/2 + 4 of itself; x̂ is
/// at most √3 and the largest |y| at least |γ|·√3, so y is off by p·(1/2 + 1/2) + 4, and 8 for its own roundings. With |g| ≤ 1.75,
/// mean |g| and mean |g·x̂| near 0.56 and a largest |dx| of |γ|·r, dx is off by p·(0.56·(1 + √3) + 1/2) + 4 and 8 for each of its
/// terms, of 2.5 in all. A term of dγ has the error of x̂ and of the sum. Running statistics take a tenth of the batch, and six
/// roundings of their own in two updates. What only reads recorded statistics has its own roundings, and those of sums.
///
/// An activation evaluates with 16 (see above) and passes on 1.13 of what t is off, whose scale is up to 1.5 times that of its
/// y; backward has both in h, whose error every term takes.
pub fn study_tolerance(case: &study::Case, quantity: Quantity) -> f64 {
    let length = (case.length() / case.segments() as u64) as f64;
    let path = 2.0 + length.log2();
    let plain = match quantity {
        Quantity::Y => path + 12.0,
        Quantity::Mean => path,
        Quantity::InverseDeviation => 0.5 * path + 4.0,
        Quantity::RunningMean | Quantity::RunningVariance => 0.2 * path + 6.0,
        Quantity::Dx => 2.1 * path + 24.0,
        Quantity::GammaGradient => 2.0 * path + 6.0,
        Quantity::BetaGradient | Quantity::FrozenBetaGradient => path + 2.0,
        Quantity::Inference | Quantity::FrozenDx => 8.0,
        Quantity::FrozenGammaGradient => path + 8.0,
    };
    let activated = matches!(case.variant, study::Variant::Silu | study::Variant::Gelu);
    let bound = match quantity {
        _ if !activated => plain,
        Quantity::Y | Quantity::Inference => 1.13 * 1.5 * plain + 16.0,
        Quantity::Mean | Quantity::InverseDeviation | Quantity::RunningMean | Quantity::RunningVariance => plain,
        _ => 2.0 * (plain + 16.0),
    };
    // A tensor of 16 bits is rounded once more, and what f32 arithmetic cost is small beside that.
    match case.element {
        ElementType::F16 if quantity.is_tensor() => 1.0 + bound * 2_f64.powi(11 - 24),
        ElementType::Bf16 if quantity.is_tensor() => 1.0 + bound * 2_f64.powi(8 - 24),
        _ => bound,
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
    let (segmentation, recorded) = (case.segmentation(), case.recorded());
    let batch = Side::new(case, segmentation, false, &got.saved);
    let frozen = Side::new(case, recorded, true, &[]);
    batch.compare_statistics(&mut worst, got, truth);
    batch.compare_running(&mut worst, recorded, got, truth);
    let forward = [
        (&batch, "output", [&got.output, &truth.output], [&got.mask, &truth.mask]),
        (&frozen, "inference", [&got.inference, &truth.inference], [&got.inference_mask, &truth.inference_mask]),
    ];
    for (side, name, [got, truth], [got_mask, truth_mask]) in forward {
        side.compare_output(&mut worst, name, (got, got_mask), (truth, truth_mask));
    }
    batch.compare_gradients(
        &mut worst,
        (&got.input_gradient, &truth.input_gradient),
        (&got.residual_gradient, &truth.residual_gradient),
        (&got.gamma_gradient, &truth.gamma_gradient),
        (&got.beta_gradient, &truth.beta_gradient),
    );
    frozen.compare_gradients(
        &mut worst,
        (&got.frozen_input_gradient, &truth.frozen_input_gradient),
        (&got.frozen_residual_gradient, &truth.frozen_residual_gradient),
        (&got.frozen_gamma_gradient, &truth.frozen_gamma_gradient),
        (&got.frozen_beta_gradient, &truth.frozen_beta_gradient),
    );
    worst
}

/// Compares backward from the output with the reference given the same output and records, so that neither rounds what the
/// other does not, and t has the sign of the same y for both, however near to 0 it is.
///
/// x̂ = (f⁻¹(y) − β)/γ is off by two divisions of 2.5 units in the last place, the slope in f32 and a subtraction: 12 u of
/// (|f⁻¹(y)| + |β|)/|γ|, as far as √M, to which x̂ is limited, does not bound that.
pub fn compare_from_output(case: &Case, kept: &Kept, got: &OutputGradients, truth: &OutputGradients) -> Worst {
    let mut worst = Worst::default();
    let (segmentation, valid) = (case.segmentation(), case.valid_elements());
    let slope = match case.activation {
        Activation::LeakyRelu { slope } => slope,
        _ => 1.0,
    };
    let value = |values: &Option<Vec<f32>>, channel: usize, otherwise| {
        values.as_ref().map_or(otherwise, |values| f64::from(values[channel]))
    };
    let largest = (segmentation.count() as f64).sqrt();
    // h, x̂, and how far off x̂ may be.
    let terms = |index: usize| {
        let (channel, y, g) =
            (case.channel(index), f64::from(kept.output[index]), f64::from(case.output_gradient[index]));
        let (gamma, beta) = (value(&case.gamma, channel, 1.0), value(&case.beta, channel, 0.0));
        let (t, h) = if y <= 0.0 { (y / slope, g * slope) } else { (y, g) };
        let (x, error) = ((t - beta) / gamma, 12.0 * U * (t.abs() + beta.abs()) / gamma.abs());
        (h, x.clamp(-largest, largest), error.min(2.0 * largest))
    };
    let mut of_instances = vec![Vec::new(); segmentation.instances() as usize];
    for index in (0..valid.len()).filter(|&index| valid[index]) {
        of_instances[segmentation.instance_of(index as u64) as usize].push(index);
    }
    let accumulation = if case.accumulates { 4.0 * U } else { 0.0 };
    let segments = (2.0 + (segmentation.segments() as f64).log2()) * U;
    let mut errors = vec![[0.0; 2]; case.channels()];
    for (instance, indices) in of_instances.iter().enumerate() {
        let total = |f: &dyn Fn((f64, f64, f64)) -> f64| indices.iter().map(|&index| f(terms(index))).sum::<f64>();
        let (count, channel) = (indices.len().max(1) as f64, segmentation.channel_of(instance as u64) as usize);
        let path = 2.0 + count.log2();
        let (sum, product) = (total(&|(h, ..)| h), total(&|(h, x, _)| h * x));
        let sum_error = U * (path + 2.0) * total(&|(h, ..)| h.abs());
        let product_error =
            total(&|(h, _, error)| h.abs() * error) + U * (path + 6.0) * total(&|(h, x, _)| (h * x).abs());
        errors[channel][0] += product_error + segments * product.abs();
        errors[channel][1] += sum_error + segments * sum.abs();
        let scale = value(&case.gamma, channel, 1.0).abs() * f64::from(kept.saved[instance].inverse_deviation);
        for &index in indices.iter().filter(|_| case.wants_input) {
            let (h, x, error) = terms(index);
            let inner = h.abs() + sum.abs() / count + (x * product).abs() / count;
            let off = 8.0 * U * inner + (sum_error + (x.abs() + error) * product_error + error * product.abs()) / count;
            let truth_magnitude = if case.accumulates { f64::from(truth.input[index]).abs() } else { 0.0 };
            let tolerance = scale * off + accumulation + U * truth_magnitude;
            worst.see_element("input_gradient", index, (case.element, &got.input), &truth.input, tolerance);
        }
    }
    for (name, at, wanted, got, truth) in [
        ("gamma_gradient", 0, case.wants_gamma, &got.gamma, &truth.gamma),
        ("beta_gradient", 1, case.wants_beta, &got.beta, &truth.beta),
    ] {
        for channel in (0..case.channels()).filter(|_| wanted) {
            let rounding = U * f64::from(truth[channel]).abs();
            worst.see(name, channel, got[channel], truth[channel], errors[channel][at] + accumulation + rounding);
        }
    }
    for index in (0..valid.len()).filter(|&index| case.wants_input && !valid[index]) {
        assert!(got.input[index] == truth.input[index], "gradient of padding [{index}]: {}", got.input[index]);
    }
    worst
}

/// Compares folded weights and bias.
///
/// The variance plus epsilon, its inverse root to about two units in the last place, and two products: 6 u of the result.
/// The bias has a difference, which is scaled, and a sum on top.
pub fn compare_folded(
    case: &Case,
    layer_bias: Option<&[f32]>,
    (got_weight, got_bias): (&[f32], &[f32]),
    (truth_weight, truth_bias): (&[f32], &[f32]),
) -> Worst {
    let mut worst = Worst::default();
    for index in 0..got_weight.len() {
        let tolerance = 6.0 * U * f64::from(truth_weight[index]).abs();
        worst.see_element("folded_weight", index, (case.element, got_weight), truth_weight, tolerance);
    }
    for channel in 0..got_bias.len() {
        let or = |values: Option<&[f32]>, absent| values.map_or(absent, |values| f64::from(values[channel]));
        let inverse = 1.0 / (f64::from(case.running_variance[channel]) + case.convention.epsilon).sqrt();
        let centred = or(layer_bias, 0.0) - f64::from(case.running_mean[channel]);
        let scaled = (centred * or(case.gamma.as_deref(), 1.0) * inverse).abs();
        let tolerance = 8.0 * U * scaled + U * f64::from(truth_bias[channel]).abs();
        worst.see("folded_bias", channel, got_bias[channel], truth_bias[channel], tolerance);
    }
    worst
}

/// Compares the moments of several batches, and the statistics taken from them, with those of all their values, by record.
///
/// A mean is that of one batch, with a merge more for every batch, of two roundings. M2 has the same path twice over, and
/// n·δ² of a mean that is off by δ; a division on top gives the variance.
pub fn compare_population(
    convention: &Convention,
    batches: usize,
    values: &[Vec<f64>],
    moments: &[ChannelMoments],
    [means, variances]: [&[f32]; 2],
) -> Worst {
    let mut worst = Worst::default();
    for (record, values) in values.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let deviation = values.iter().map(|x| (x - mean).abs()).sum::<f64>() / count;
        let m2: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let path = U * (2.0 + count.log2() + 2.0 * batches as f64);
        let mean_error = path * deviation;
        let m2_error = (6.0 * U + 2.0 * path) * m2 + count * mean_error.powi(2);
        // Unbiased, the count less one.
        let degrees = count / convention.running_variance.factor(values.len() as u64);
        let (variance, variance_error) = (m2 / degrees, (m2_error + 3.0 * U * m2) / degrees);
        for (name, got, truth, tolerance) in [
            ("moments.mean", moments[record].mean(), mean, reported(mean_error, mean)),
            ("moments.m2", moments[record].m2, m2, m2_error),
            ("mean", means[record], mean, reported(mean_error, mean)),
            ("variance", variances[record], variance, variance_error),
        ] {
            worst.see(name, record, got, truth as f32, tolerance);
        }
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
        assert_eq!(got.len(), truth.len(), "{name}");
        for (index, (&got, &truth)) in got.iter().zip(truth).enumerate() {
            worst.see(name, index, got, truth, 0.0);
        }
    }
}

/// The statistics that an instance is normalised with, and how well a device may know them.
#[derive(Clone, Copy)]
struct Normalizer {
    mean: f64,
    inverse: f64,
    mean_error: f64,
    inverse_relative_error: f64,
    variance_error: f64,
}

/// The γ and β that stand for the caller's where batch renormalization has corrected x̂, and how well a device may know them.
#[derive(Clone, Copy)]
struct Parameters {
    gamma: f64,
    beta: f64,
    gamma_error: f64,
    beta_error: f64,
    scale: f64,
    shift: f64,
    scale_error: f64,
    shift_error: f64,
}

/// One instance: a channel of a segment.
struct Instance {
    channel: usize,
    /// Its valid elements.
    indices: Vec<usize>,
    moments: Moments,
    normalizer: Normalizer,
    parameters: Parameters,
}

/// The operations through batch statistics, or those through frozen ones.
struct Side<'a> {
    case: &'a Case,
    segmentation: Segmentation,
    frozen: bool,
    instances: Vec<Instance>,
    /// Elements that are padding.
    padding: Vec<usize>,
    /// Empty without an activation.
    preactivations: Vec<f64>,
}

impl<'a> Side<'a> {
    fn new(case: &'a Case, segmentation: Segmentation, frozen: bool, records: &[ChannelStatistics]) -> Self {
        let valid = case.valid_elements();
        let mut indices = vec![Vec::new(); segmentation.instances() as usize];
        for index in (0..case.input.len()).filter(|&index| valid[index]) {
            indices[segmentation.instance_of(index as u64) as usize].push(index);
        }
        let instances = case.moments(segmentation).into_iter().zip(indices).enumerate();
        let instances = instances.map(|(instance, (moments, indices))| {
            let channel = segmentation.channel_of(instance as u64) as usize;
            let normalizer = if frozen {
                frozen_normalizer(case, instance, &indices)
            } else {
                batch_normalizer(case, &moments, &indices, records.get(instance).map_or(0.0, |record| record.pivot))
            };
            let parameters = parameters(case, segmentation, instance, &moments, &normalizer, frozen);
            Instance { channel, indices, moments, normalizer, parameters }
        });
        let preactivations = match case.activation {
            Activation::Identity => Vec::new(),
            _ => case.preactivations(frozen),
        };
        let instances = instances.collect();
        let padding = (0..case.input.len()).filter(|&index| !valid[index]).collect();
        Self { case, segmentation, frozen, instances, padding, preactivations }
    }

    fn compare_statistics(&self, worst: &mut Worst, got: &Results, truth: &Results) {
        for (index, instance) in self.instances.iter().enumerate() {
            let Normalizer { mean, inverse, inverse_relative_error, variance_error, .. } = instance.normalizer;
            if let (Some(got), Some(truth)) = (got.saved.get(index), truth.saved.get(index)) {
                let mean_error = reported(instance.normalizer.mean_error, mean);
                worst.see("saved.mean", index, got.mean(), truth.mean(), mean_error);
                worst.see("saved.variance", index, got.variance, truth.variance, variance_error);
                let tolerance = inverse_relative_error * inverse;
                worst.see("saved.inverse_deviation", index, got.inverse_deviation, truth.inverse_deviation, tolerance);
            }
            if let (Some(got), Some(truth)) = (got.renormalization.get(index), truth.renormalization.get(index)) {
                worst.see("scale", index, got.scale, truth.scale, instance.parameters.scale_error);
                worst.see("shift", index, got.shift, truth.shift, instance.parameters.shift_error);
            }
            if let (Some(got), Some(truth)) = (got.health.get(index), truth.health.get(index)) {
                assert_eq!(got, truth, "health of instance {index}");
            }
        }
    }

    /// Where segments share running statistics, an update in turn carries on the errors of those before it, as far as they
    /// are still in the value; an average has the error of a sum, and is one update.
    fn compare_running(&self, worst: &mut Worst, recorded: Segmentation, got: &Results, truth: &Results) {
        let case = self.case;
        let weight = case.convention.momentum.weight_of_new(u64::from(case.batches_tracked.unwrap_or(0)));
        let (old_weight, new_weight) = ((1.0 - weight).abs(), weight.abs());
        let averages = case.convention.segment_running == SegmentRunning::Averaged;
        let mut of_records = vec![Vec::new(); case.running_mean.len()];
        for (at, instance) in self.instances.iter().enumerate() {
            of_records[if recorded == self.segmentation { at } else { instance.channel }].push(instance);
        }
        for (index, segments) in of_records.iter().enumerate() {
            let count = segments.len() as f64;
            let largest = |f: &dyn Fn(&Instance) -> f64| segments.iter().map(|i| f(i)).fold(0.0, f64::max);
            let mean = |f: &dyn Fn(&Instance) -> f64| segments.iter().map(|i| f(i)).sum::<f64>() / count;
            let factor = |i: &Instance| case.convention.running_variance.factor(i.moments.count as u64);
            let cumulative = case.convention.momentum == Momentum::CumulativeAverage;
            let blend = |error: &dyn Fn(&Instance) -> f64, old: f32, new: &dyn Fn(&Instance) -> f64| {
                let old = f64::from(old).abs();
                if segments.len() == 1 || averages {
                    // Levels of 32, then one after the other.
                    let path = if segments.len() == 1 { 0.0 } else { 34.0 + count / 32.0 };
                    let update = 4.0 * U * (old_weight * old + new_weight * largest(new));
                    return new_weight * (mean(error) + U * path * mean(new)) + update;
                }
                // Σ (1 − w)^k, or the count where all weights are alike.
                let carried = if cumulative || old_weight >= 1.0 {
                    count
                } else {
                    (1.0 - old_weight.powf(count)) / (1.0 - old_weight)
                };
                let rounding = 4.0 * U * carried * old.max(largest(new));
                let errors = if cumulative { largest(error) } else { new_weight * carried * largest(error) };
                errors + rounding
            };
            worst.see(
                "running_mean",
                index,
                got.running_mean[index],
                truth.running_mean[index],
                blend(&|i| reported(i.normalizer.mean_error, i.normalizer.mean), case.running_mean[index], &|i| {
                    i.normalizer.mean.abs()
                }),
            );
            worst.see(
                "running_variance",
                index,
                got.running_variance[index],
                truth.running_variance[index],
                blend(&|i| factor(i) * i.normalizer.variance_error, case.running_variance[index], &|i| {
                    factor(i) * i.moments.variance
                }),
            );
        }
    }

    fn compare_output(
        &self,
        worst: &mut Worst,
        name: &str,
        (got, got_mask): (&[f32], &[u32]),
        (truth, truth_mask): (&[f32], &[u32]),
    ) {
        let case = self.case;
        let bit = |mask: &[u32], index: usize| mask.get(index / 32).map(|word| word >> (index % 32) & 1);
        for instance in &self.instances {
            let (error, magnitude) = self.preactivation(instance);
            let tolerance = match case.activation {
                Activation::Identity => error,
                activation if activation.is_piecewise_linear() => error + 2.0 * U * magnitude,
                _ => LARGEST_DERIVATIVE * error + EVALUATION * magnitude.max(1.0),
            };
            for &index in &instance.indices {
                worst.see_element(name, index, (case.element, got), truth, tolerance);
                // Near 0 either sign will do; the gradient is 0 there.
                let near = case.output_gradient[index] == 0.0;
                assert!(near || bit(got_mask, index) == bit(truth_mask, index), "mask of {name}[{index}]");
            }
        }
        for &index in &self.padding {
            let same = got[index] == truth[index] && bit(got_mask, index) == bit(truth_mask, index);
            assert!(same, "padding of {name}[{index}] = {}", got[index]);
        }
    }

    /// How far off the pre-activation is, and the largest of it.
    fn preactivation(&self, instance: &Instance) -> (f64, f64) {
        let (normalizer, parameters) = (&instance.normalizer, &instance.parameters);
        let largest = instance.indices.iter().map(|&index| self.normalised(instance, index).abs()).fold(0.0, f64::max);
        let residual = |residual: &Vec<f32>| {
            instance.indices.iter().map(|&index| f64::from(residual[index]).abs()).fold(0.0, f64::max)
        };
        let added = self.case.residual.as_ref().map_or(0.0, residual);
        let error =
            normalizer.mean_error * normalizer.inverse + largest * (normalizer.inverse_relative_error + 4.0 * U);
        let magnitude = parameters.beta.abs() + parameters.gamma.abs() * largest + added;
        let parameter_error = parameters.gamma_error * largest + parameters.beta_error;
        (parameters.gamma.abs() * error + parameter_error + 4.0 * U * magnitude, magnitude)
    }

    fn normalised(&self, instance: &Instance, index: usize) -> f64 {
        (f64::from(self.case.input[index]) - instance.normalizer.mean) * instance.normalizer.inverse
    }

    fn compare_gradients(
        &self,
        worst: &mut Worst,
        input: (&[f32], &[f32]),
        residual: (&[f32], &[f32]),
        gamma_gradient: (&[f32], &[f32]),
        beta_gradient: (&[f32], &[f32]),
    ) {
        let case = self.case;
        let mut gamma_errors = vec![0.0; case.channels()];
        let mut beta_errors = vec![0.0; case.channels()];
        // Accumulation adds one rounding of the sum with what was there, at most 3 in magnitude.
        let accumulation = if case.accumulates { 4.0 * U } else { 0.0 };
        let segments = (2.0 + (self.segmentation.segments() as f64).log2()) * U;
        for instance in &self.instances {
            let errors = self.compare_instance_gradients(worst, instance, input, residual, accumulation);
            let parameters = &instance.parameters;
            let (sum, product) = (errors.sum.abs(), errors.product.abs());
            let mut gamma_error = parameters.scale.abs() * errors.product_error
                + parameters.scale_error * product
                + parameters.shift.abs() * errors.sum_error
                + parameters.shift_error * sum;
            if case.renormalization.is_some() {
                gamma_error += 4.0 * U * (parameters.scale.abs() * product + parameters.shift.abs() * sum);
            }
            if self.segmentation.segments() > 1 {
                gamma_error += segments * (parameters.scale.abs() * product + parameters.shift.abs() * sum);
                beta_errors[instance.channel] += segments * sum;
            }
            gamma_errors[instance.channel] += gamma_error;
            beta_errors[instance.channel] += errors.sum_error;
        }
        for (name, errors, (got, truth)) in
            [("gamma_gradient", gamma_errors, gamma_gradient), ("beta_gradient", beta_errors, beta_gradient)]
        {
            if !(if name == "gamma_gradient" { case.wants_gamma } else { case.wants_beta }) {
                continue;
            }
            for (channel, error) in errors.into_iter().enumerate() {
                let rounding = U * f64::from(truth[channel]).abs();
                worst.see(name, channel, got[channel], truth[channel], error + accumulation + rounding);
            }
        }
        for &index in self.padding.iter().filter(|_| case.wants_input) {
            let returned = residual.1.get(index).is_none_or(|truth| residual.0[index] == *truth);
            assert!(input.0[index] == input.1[index] && returned, "gradient of padding [{index}]");
        }
    }

    fn compare_instance_gradients(
        &self,
        worst: &mut Worst,
        instance: &Instance,
        input: (&[f32], &[f32]),
        residual: (&[f32], &[f32]),
        accumulation: f64,
    ) -> SumErrors {
        let (case, normalizer, parameters) = (self.case, &instance.normalizer, &instance.parameters);
        let indices = &instance.indices;
        let (count, element) = (instance.moments.count.max(1.0), case.element);
        let path = 2.0 + count.log2();
        let smooth = !case.activation.is_piecewise_linear();
        let normalised = |index: usize| self.normalised(instance, index);
        // h, the gradient before the activation.
        let gradient = |index: usize| {
            let g = f64::from(case.output_gradient[index]);
            let t = self.preactivations.get(index);
            t.map_or(g, |&t| if g == 0.0 { 0.0 } else { g * case.activation.derivative(t) })
        };
        let (t_error, t_magnitude) = self.preactivation(instance);
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
        let (highest, farthest) = (largest(&|i| gradient(i)), largest(&|i| normalised(i)));
        let x_error =
            normalizer.mean_error * normalizer.inverse + farthest * (normalizer.inverse_relative_error + 4.0 * U);
        let (inner, inner_error) = if self.frozen {
            (highest, 2.0 * U * highest + largest(&h_error))
        } else {
            let inner = highest + sum.abs() / count + farthest * product.abs() / count;
            let error = 4.0 * U * inner
                + sum_error / count
                + farthest * product_error / count
                + x_error * product.abs() / count;
            (inner, error + largest(&h_error))
        };
        let scale = parameters.gamma.abs() * normalizer.inverse;
        let tolerance = scale * (inner_error + (normalizer.inverse_relative_error + 4.0 * U) * inner)
            + parameters.gamma_error * normalizer.inverse * inner
            + accumulation;
        for &index in indices {
            let truth = input.1[index];
            let tolerance = if case.accumulates { tolerance + U * f64::from(truth).abs() } else { tolerance };
            if case.wants_input {
                worst.see_element("input_gradient", index, (element, input.0), input.1, tolerance);
            }
            if let Some(&truth) = residual.1.get(index) {
                let tolerance = h_error(index) + accumulation + U * f64::from(truth).abs();
                worst.see_element("residual_gradient", index, (element, residual.0), residual.1, tolerance);
            }
        }
        SumErrors { sum, sum_error, product, product_error }
    }
}

/// Σh and Σh·x̂ of an instance, and how far off they may be.
struct SumErrors {
    sum: f64,
    sum_error: f64,
    product: f64,
    product_error: f64,
}

/// Rounding of `pivot + offset` to one f32 comes on top where the mean leaves the device as one number.
fn reported(mean_error: f64, mean: f64) -> f64 {
    mean_error + U * mean.abs()
}

fn invert(case: &Case, variance: f64) -> f64 {
    let sum = variance + case.convention.epsilon;
    if sum == 0.0 { 0.0 } else { 1.0 / sum.sqrt() }
}

/// With the pivot that the record says was taken.
fn batch_normalizer(case: &Case, moments: &Moments, indices: &[usize], pivot: f32) -> Normalizer {
    let Moments { mean, variance, .. } = *moments;
    let count = moments.count.max(1.0);
    let path = 2.0 + count.log2();
    let values = || indices.iter().map(|&index| f64::from(case.input[index]));
    let deviation = values().map(|x| (x - mean).abs()).sum::<f64>() / count;
    // The pivot is one of the values, so the offset, rounded to f32, is no larger than the largest deviation.
    let largest_deviation = values().map(|x| (x - mean).abs()).fold(0.0, f64::max);
    let magnitude = values().map(f64::abs).sum::<f64>() / count;
    let pivoted = U * (path * deviation + largest_deviation) + 2_f64.powi(-44) * mean.abs();
    // Where the mean is small against the deviation, no worse than a tree over the values themselves; but a pivot that two of
    // three samples chose far from 0 is the size of the offset.
    let mean_error = pivoted.min(U * (path * magnitude + f64::from(pivot).abs()));
    let variance_error = U * (6.0 + 2.0 * path) * variance + mean_error.powi(2);
    Normalizer {
        mean,
        inverse: invert(case, variance),
        mean_error,
        inverse_relative_error: 4.0 * U + 0.5 * variance_error / (variance + case.convention.epsilon).max(1e-300),
        variance_error,
    }
}

fn frozen_normalizer(case: &Case, instance: usize, indices: &[usize]) -> Normalizer {
    let mean = f64::from(case.running_mean[instance]);
    let farthest = indices.iter().map(|&index| (f64::from(case.input[index]) - mean).abs()).fold(0.0, f64::max);
    Normalizer {
        mean,
        inverse: invert(case, f64::from(case.running_variance[instance])),
        mean_error: 2.0 * U * farthest,
        inverse_relative_error: 4.0 * U,
        variance_error: 0.0,
    }
}

fn parameters(
    case: &Case,
    segmentation: Segmentation,
    instance: usize,
    moments: &Moments,
    normalizer: &Normalizer,
    frozen: bool,
) -> Parameters {
    let channel = segmentation.channel_of(instance as u64) as usize;
    let gamma = case.gamma.as_ref().map_or(1.0, |gamma| f64::from(gamma[channel]));
    let beta = case.beta.as_ref().map_or(0.0, |beta| f64::from(beta[channel]));
    if frozen || case.renormalization.is_none() {
        let (gamma_error, beta_error, scale_error, shift_error) = (0.0, 0.0, 0.0, 0.0);
        return Parameters { gamma, beta, gamma_error, beta_error, scale: 1.0, shift: 0.0, scale_error, shift_error };
    }
    let (scale, shift) = case.correction(instance, moments);
    let recorded = if case.recorded() == segmentation { instance } else { channel };
    let (running_mean, running_variance) =
        (f64::from(case.running_mean[recorded]), f64::from(case.running_variance[recorded]));
    let running_inverse = invert(case, running_variance);
    // Limits only take errors away. A square root may be off by as much as an inverse one.
    let scale_error = scale * (normalizer.inverse_relative_error + 10.0 * U);
    let difference = (moments.mean - running_mean).abs();
    let shift_error = running_inverse * (reported(normalizer.mean_error, moments.mean) + 2.0 * U * running_mean.abs())
        + 8.0 * U * difference * running_inverse;
    Parameters {
        gamma: gamma * scale,
        beta: gamma * shift + beta,
        gamma_error: gamma.abs() * (scale_error + 2.0 * U * scale),
        beta_error: gamma.abs() * (shift_error + 2.0 * U * shift.abs()) + 2.0 * U * beta.abs(),
        scale,
        shift,
        scale_error,
        shift_error,
    }
}

/// What merging moments of parts may cost their mean, where pivots and offsets have `scale`: roundings of values as large.
pub fn of_merged_mean(scale: f32) -> f32 {
    8.0 * f32::EPSILON * scale
}

/// As [`of_merged_mean`], of the variance: M2 is rounded itself, and squares of differences of means carry their roundings.
pub fn of_merged_variance(variance: f32, scale: f32) -> f32 {
    32.0 * f32::EPSILON * (variance + scale * variance.sqrt() + f32::EPSILON * scale * scale)
}

/// How far dγ of a channel of subnormal values may be off, where they are all of one sign: a driver may take any of them, and any
/// product of theirs, for 0. What is left of the channel's own scale is all of Σ|g·x̂|.
pub fn of_subnormal_gamma_gradient(case: &Case, channel: usize) -> f64 {
    let indices = || (0..case.input.len()).filter(|&index| case.channel(index) == channel);
    let largest = indices().map(|index| f64::from(case.input[index]).abs()).fold(0.0, f64::max);
    let gradients: f64 = indices().map(|index| f64::from(case.output_gradient[index]).abs()).sum();
    gradients * largest / case.convention.epsilon.sqrt()
}
