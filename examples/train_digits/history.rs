//! The training loop, written once for both networks, and what it notes down.

use indicatif::ProgressBar;
use wgpu_batch_norm::Error;

use crate::data::Batches;
use crate::network::{Metrics, Network};

/// A look at the network after some steps.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub step: usize,
    /// On the batches since the last look; absent before the first step.
    pub training: Option<Metrics>,
    pub test: Metrics,
}

/// The looks at one network, by step.
#[derive(Clone, Debug)]
pub struct History {
    pub points: Vec<Point>,
}

impl History {
    /// Trains for `steps` steps and looks every `interval` of them, before the first and after the last.
    ///
    /// Nothing is read back in between.
    pub fn train(
        network: &mut dyn Network,
        mut batches: Batches,
        steps: usize,
        interval: usize,
        progress: &ProgressBar,
    ) -> Result<Self, Error> {
        let mut points = vec![Point { step: 0, training: None, test: network.test()? }];
        let mut step = 0;
        while step < steps {
            let next_look = (step / interval + 1) * interval;
            let count = network.steps_per_call().min(next_look.min(steps) - step);
            network.train(&batches.take(count))?;
            step += count;
            progress.inc(count as u64);
            if step == next_look || step == steps {
                points.push(Point { step, training: network.training_metrics(), test: network.test()? });
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

    pub fn best_accuracy(&self) -> f64 {
        self.points.iter().map(|point| point.test.accuracy).fold(0.0, f64::max)
    }
}
