//! The training loop, written once for both networks, and what it notes down.

use wgpu_batch_norm::Error;

use crate::WIDTHS;
use crate::model::Model;
use crate::network::digits::Batches;
use crate::network::loss::Metrics;
use crate::network::plot::Spread;
use crate::network::progress::Progress;

/// The paper looks at "a typical sigmoid, from the last hidden layer": here it is the first one, chosen before any run.
const TYPICAL_UNIT: usize = 0;
/// The shares of the test set that the paper's percentiles cut off.
const SHARES: [f64; 3] = [0.15, 0.5, 0.85];

/// A look at the network after some steps.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub step: usize,
    /// On the batches since the last look; absent before the first step.
    pub training: Option<Metrics>,
    pub test: Metrics,
    /// The 15th, 50th and 85th percentile of what went into a sigmoid of the last hidden layer, over the test set.
    pub percentiles: [f64; 3],
}

/// The looks at one network, by step.
#[derive(Clone, Debug)]
pub struct History {
    pub points: Vec<Point>,
}

impl History {
    /// Trains for `steps` steps and looks every `interval` of them, before the first and after the last.
    ///
    /// Nothing is read back in between. Where the user asks it to stop, the looks so far are what there is.
    pub fn train(
        model: &mut dyn Model,
        mut batches: Batches,
        steps: usize,
        interval: usize,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let width = WIDTHS[WIDTHS.len() - 2];
        let look = |model: &mut dyn Model, step| -> Result<Point, Error> {
            let (training, test) = (model.training_metrics(), model.test()?);
            let inputs = model.last_hidden_inputs();
            let percentiles = percentiles(inputs.iter().skip(TYPICAL_UNIT).step_by(width));
            Ok(Point { step, training, test, percentiles })
        };
        let mut points = vec![look(model, 0)?];
        let mut step = 0;
        while step < steps && !progress.stopped() {
            let next_look = (step / interval + 1) * interval;
            let count = model.steps_per_call().min(next_look.min(steps) - step);
            model.train(&batches.take(count))?;
            step += count;
            progress.add(count as u64);
            if step == next_look || step == steps || progress.stopped() {
                points.push(look(model, step)?);
            }
        }
        Ok(Self { points })
    }

    /// The first look at which the test accuracy was at least `accuracy`.
    pub fn first_step_at(&self, accuracy: f64) -> Option<usize> {
        self.points.iter().find(|point| point.test.accuracy >= accuracy).map(|point| point.step)
    }

    pub fn final_accuracy(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.test.accuracy)
    }

    /// How far each percentile moves from step `from` on: from its lowest to its highest.
    pub fn movement(&self, from: usize) -> [f64; 3] {
        let later = || self.points.iter().filter(|point| point.step >= from);
        [0, 1, 2].map(|index| {
            let Spread { low, high, .. } = Spread::of(later().map(|point| point.percentiles[index]));
            high - low
        })
    }
}

/// By linear interpolation between neighbours in order; 0 without values.
fn percentiles<'v>(values: impl Iterator<Item = &'v f32>) -> [f64; 3] {
    let mut sorted: Vec<f64> = values.map(|&value| f64::from(value)).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return [0.0; 3] };
    SHARES.map(|share| {
        let place = share * last as f64;
        let below = place.floor() as usize;
        sorted[below] + (sorted[(below + 1).min(last)] - sorted[below]) * place.fract()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let values: Vec<f32> = (0_u8..=10).rev().map(f32::from).collect();
        let found = percentiles(values.iter());
        for (found, expected) in found.into_iter().zip([1.5, 5.0, 8.5]) {
            approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-12);
        }
        assert_eq!(percentiles([].iter()), [0.0; 3]);
    }
}
