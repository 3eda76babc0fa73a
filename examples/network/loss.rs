//! Softmax cross-entropy, and the count of right answers.

use super::context::{Context, Kernel, kernel};
use super::tape::Tape;
use super::tensor::{Tensor, View};

const SOFTMAX_CROSS_ENTROPY: Kernel = kernel!("softmax_cross_entropy");

/// Losses and right answers, added up on the device until they are taken.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Two values a row of the batch: the sum of its losses, the count of its right answers.
    sums: View,
    rows: usize,
}

/// Averages over samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    pub loss: f64,
    /// From 0 to 1.
    pub accuracy: f64,
}

impl Scores {
    /// The averages over the last `batches`, and starts again from 0. Reads back, so it waits for the device.
    pub fn take(&self, context: &Context, batches: usize) -> Metrics {
        let sums: Vec<[f32; 2]> = context.read(&self.sums);
        context.write(&self.sums, &vec![[0.0_f32; 2]; self.rows]);
        let samples = (self.rows * batches).max(1) as f64;
        let mean = |index: usize| sums.iter().map(|row| f64::from(row[index])).sum::<f64>() / samples;
        Metrics { loss: mean(0), accuracy: mean(1) }
    }
}

impl Tape<'_> {
    /// The end of a network: the mean loss of the batch is what the gradients are of. `logits` are rows of a value a class,
    /// `labels` an index a row.
    ///
    /// # Panics
    /// If there is not a label a row.
    pub fn softmax_cross_entropy(&mut self, logits: &Tensor, labels: &View) -> Scores {
        let (rows, classes) = (labels.len, logits.len() / labels.len);
        assert_eq!(logits.shape, [rows, classes], "a label a row");
        let shape = self.context.uniform("shape", &[rows as u32, 0, classes as u32]);
        let sums = self.context.zeros("scores", 2 * rows);
        let unused;
        let gradient = match &logits.gradient {
            Some(gradient) => gradient,
            None => {
                unused = self.context.zeros("unused gradient of logits", logits.len());
                &unused
            }
        };
        let slices = [shape.slice(..), logits.values.slice(), labels.slice(), gradient.slice(), sums.slice()];
        self.push_dispatch(self.context.bind(SOFTMAX_CROSS_ENTROPY, &[], rows, &slices));
        let written = logits.gradient.clone();
        self.push_backward(move |gradients| {
            // Written by the forward; other uses of the logits add to it.
            if let Some(gradient) = written {
                gradients.target(&gradient);
            }
            Ok(Vec::new())
        });
        Scores { sums, rows }
    }
}
