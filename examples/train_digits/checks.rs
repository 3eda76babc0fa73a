//! What the program checks about itself: the device against the CPU.

use wgpu_batch_norm::{BatchNormDescriptor, Error, Shape, reference};

use crate::model::{InferenceRecord, Model};

/// Roundings, in units of the last place of the largest intermediate value, that inference may differ from the reference.
///
/// A difference, a sum with epsilon, two or three products and a sum round by half a unit each, and WGSL allows
/// `inverseSqrt` two units. That is at most 5; the rest is room for compilers that regroup the formula.
pub const ALLOWED_ULPS: f64 = 8.0;

/// How inference differs from the reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct InferenceDifference {
    /// Outputs compared.
    pub values: usize,
    /// The largest `|y − reference|`.
    pub largest: f64,
    /// The largest, in units of the last place of the largest intermediate value.
    pub largest_ulps: f64,
}

impl InferenceDifference {
    pub fn passes(&self) -> bool {
        // NaN fails.
        self.largest_ulps <= ALLOWED_ULPS
    }

    /// Both together.
    pub fn worst(self, other: Self) -> Self {
        Self {
            values: self.values + other.values,
            largest: larger(self.largest, other.largest),
            largest_ulps: larger(self.largest_ulps, other.largest_ulps),
        }
    }
}

/// Compares every output of every batch norm with the reference in f64.
pub fn inference(records: &[InferenceRecord]) -> Result<InferenceDifference, Error> {
    let mut found = InferenceDifference::default();
    for record in records {
        let channels = record.gamma.len();
        let descriptor = BatchNormDescriptor { channels: channels as u32, ..Default::default() };
        let bn = reference::BatchNorm::new(&descriptor)?;
        let plan = bn.plan(&Shape::new(&[record.input.len() / channels, channels])?)?;
        let widen = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
        let input = widen(&record.input);
        let (gamma, beta) = (widen(&record.gamma), widen(&record.beta));
        let (running_mean, running_variance) = (widen(&record.running_mean), widen(&record.running_variance));
        let mut expected = vec![0.0_f64; input.len()];
        bn.inference(
            &plan,
            reference::InferenceBuffers {
                input: &input,
                output: &mut expected,
                gamma: Some(&gamma),
                beta: Some(&beta),
                running_mean: &running_mean,
                running_variance: &running_variance,
                ..Default::default()
            },
        )?;
        for (index, (&output, expected)) in record.output.iter().zip(expected).enumerate() {
            let channel = index % channels;
            let [gamma, beta, mean, variance] =
                [&gamma, &beta, &running_mean, &running_variance].map(|values| values[channel]);
            let factor = gamma / (variance + descriptor.convention.epsilon).sqrt();
            // No intermediate value of γ·(x − mean)·r + β, or of x·(γ·r) + (β − mean·γ·r), is larger than this.
            let scale = factor.abs() * (input[index].abs() + mean.abs()) + beta.abs();
            let difference = (f64::from(output) - expected).abs();
            let ulps = difference / (scale.max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON));
            found.values += 1;
            found.largest = larger(found.largest, difference);
            found.largest_ulps = larger(found.largest_ulps, ulps);
        }
    }
    Ok(found)
}

/// The largest difference between the parameters of two networks, as a share of the largest change that training made.
///
/// A wrong sign or factor anywhere in a backward pass shows as a difference of the size of the change itself.
pub fn parameter_difference(initial: &[f32], a: &dyn Model, b: &dyn Model) -> f64 {
    let (a, b) = (a.parameters(), b.parameters());
    let largest =
        |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs()).fold(0.0, larger);
    largest(&a, &b) / largest(initial, &b)
}

/// The maximum; NaN when one is NaN, unlike `f64::max`.
fn larger(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> InferenceRecord {
        InferenceRecord {
            input: vec![1.0, 2.0, 3.0, 4.0],
            output: vec![1.0, 2.0, 3.0, 4.0],
            gamma: vec![1.0; 2],
            beta: vec![0.0; 2],
            running_mean: vec![0.0; 2],
            running_variance: vec![1.0 - 1e-5; 2],
        }
    }

    #[test]
    fn right_outputs_pass_and_wrong_ones_fail() {
        assert!(inference(&[record()]).unwrap().passes());
        for wrong in [4.0001, f32::NAN, f32::INFINITY] {
            let mut record = record();
            record.output[3] = wrong;
            let found = inference(&[record]).unwrap();
            assert!(!found.passes(), "{wrong}");
            let right = InferenceDifference::default();
            assert!(!found.worst(right).passes() && !right.worst(found).passes(), "{wrong} does not get lost");
        }
    }
}
