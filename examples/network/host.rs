//! The same layers on the CPU, in plain Rust: what a network without an adapter trains with.

use super::loss::Metrics;

/// Sums over samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scores {
    pub loss: f64,
    pub hits: usize,
    pub samples: usize,
}

impl Scores {
    /// `None` without a sample.
    pub fn mean(self) -> Option<Metrics> {
        let samples = self.samples as f64;
        (self.samples > 0).then(|| Metrics { loss: self.loss / samples, accuracy: self.hits as f64 / samples })
    }
}

/// A dot product in eight partial sums, which the compiler can keep in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `sum += factor · values`
fn add_scaled(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// `outputs` values a row: `input · weightᵀ + bias`, with weights `outputs × inputs`.
pub fn linear_forward(input: &[f32], inputs: usize, weight: &[f32], bias: Option<&[f32]>, outputs: usize) -> Vec<f32> {
    let row =
        |x: &[f32], output: usize| dot(x, &weight[output * inputs..][..inputs]) + bias.map_or(0.0, |bias| bias[output]);
    input.chunks(inputs).flat_map(|x| (0..outputs).map(move |output| row(x, output))).collect()
}

pub fn linear_backward_input(gradient: &[f32], outputs: usize, weight: &[f32], inputs: usize) -> Vec<f32> {
    let mut input_gradient = vec![0.0; gradient.len() / outputs * inputs];
    for (row, sum) in gradient.chunks(outputs).zip(input_gradient.chunks_mut(inputs)) {
        for (&gradient, weight) in row.iter().zip(weight.chunks(inputs)) {
            add_scaled(sum, gradient, weight);
        }
    }
    input_gradient
}

pub fn linear_backward_weight(
    gradient: &[f32],
    outputs: usize,
    input: &[f32],
    inputs: usize,
    weight_gradient: &mut [f32],
) {
    weight_gradient.fill(0.0);
    for (row, x) in gradient.chunks(outputs).zip(input.chunks(inputs)) {
        for (&gradient, sum) in row.iter().zip(weight_gradient.chunks_mut(inputs)) {
            add_scaled(sum, gradient, x);
        }
    }
}

pub fn linear_backward_bias(gradient: &[f32], bias_gradient: &mut [f32]) {
    bias_gradient.fill(0.0);
    for row in gradient.chunks(bias_gradient.len()) {
        add_scaled(bias_gradient, 1.0, row);
    }
}

/// The scores of a batch, and the gradient of its mean loss with respect to the logits.
pub fn softmax_cross_entropy(logits: &[f32], labels: &[u32]) -> (Scores, Vec<f32>) {
    let rows = labels.len();
    let mut scores = Scores { samples: rows, ..Default::default() };
    let mut gradient = logits.to_vec();
    for (row, &label) in gradient.chunks_mut(logits.len() / rows).zip(labels) {
        let label = label as usize;
        // The first of equal logits, as on the device.
        let best = (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        let (largest, own) = (row[best], row[label]);
        let sum: f32 = row.iter().map(|logit| (logit - largest).exp()).sum();
        for (class, value) in row.iter_mut().enumerate() {
            let target = if class == label { 1.0 } else { 0.0 };
            *value = ((*value - largest).exp() / sum - target) / rows as f32;
        }
        scores.loss += f64::from(sum.ln() - (own - largest));
        scores.hits += usize::from(best == label);
    }
    (scores, gradient)
}
