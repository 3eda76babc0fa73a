//! The training loop: steps, and a look at the test set every so often.

use super::context::Context;
use super::digits::Batches;
use super::feed::Feed;
use super::loss::{Metrics, Scores};
use super::norm::Norm;
use super::optimizer::Optimizer;
use super::plot::{Legend, Lines, Panel, Series, Spread};
use super::progress::Progress;
use super::tape::Program;

/// All that a network is trained and tested with, bound.
pub struct Trainer<'c> {
    pub context: &'c Context,
    pub feed: Feed<'c>,
    /// Forward and backward of a batch.
    pub training: Program,
    pub training_scores: Scores,
    pub optimizer: Optimizer,
    /// Forward of the test set.
    pub test: Program,
    pub test_scores: Scores,
    /// Batch norms, which the test takes with their running statistics.
    pub norms: Vec<Norm>,
}

/// How a network did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    pub step: usize,
    /// Over the batches since the last look; absent before the first step.
    pub training: Option<Metrics>,
    pub test: Metrics,
}

impl Trainer<'_> {
    /// Trains for `steps` and looks at the test set at the start, every so many steps, and at the end. Asked to stop, it ends with
    /// the looks so far.
    pub fn run(&self, batches: &mut Batches, steps: usize, every: usize, progress: &Progress) -> Vec<Look> {
        self.run_as(batches, [steps, every], Norm::train, progress)
    }

    /// The same with batch norms in a mode of the caller's choice, for fine-tuning with frozen statistics.
    pub fn run_as(
        &self,
        batches: &mut Batches,
        [steps, every]: [usize; 2],
        mode: fn(&Norm),
        progress: &Progress,
    ) -> Vec<Look> {
        self.norms.iter().for_each(mode);
        let mut looks = vec![Look { step: 0, training: None, test: self.test() }];
        let (mut step, every) = (0, every.max(1));
        while step < steps && !progress.stopped() {
            let next = (step / every * every + every).min(steps);
            let (start, mut left) = (step, next - step);
            while left > 0 && !progress.stopped() {
                let count = left.min(self.feed.max_steps());
                self.step(&batches.take(count));
                progress.add(count as u64);
                (step, left) = (step + count, left - count);
            }
            if step > start {
                let training = Some(self.training_scores.take(self.context, step - start));
                looks.push(Look { step, training, test: self.test() });
            }
        }
        looks
    }

    /// A step for each of the chosen batches.
    pub fn step(&self, chosen: &[u32]) {
        self.feed.run(chosen, |pass| {
            self.training.record(pass);
            self.optimizer.record(pass);
        });
    }

    /// The test set, with running statistics; batch norms return to the mode that each was in.
    pub fn test(&self) -> Metrics {
        let modes: Vec<_> = self.norms.iter().map(|norm| norm.layer.mode()).collect();
        self.norms.iter().for_each(Norm::eval);
        self.context.gpu.submit(|pass| self.test.record_forward(pass));
        for (norm, mode) in self.norms.iter().zip(modes) {
            norm.layer.set_mode(mode);
        }
        self.test_scores.take(self.context, 1)
    }
}

/// Runs of a network over several seeds.
pub type Runs = Vec<Vec<Look>>;

/// The test accuracy of several networks over their steps.
pub fn accuracy_panel(title: &str, y: &str, networks: &[(&str, &Runs)]) -> Panel {
    let accuracy = |look: &Look| Some(100.0 * look.test.accuracy);
    Panel::Lines(Lines {
        title: title.to_owned(),
        x: "training steps".to_owned(),
        y: y.to_owned(),
        series: networks.iter().map(|(name, runs)| curve(name, runs, accuracy)).collect(),
        ..Default::default()
    })
}

/// The training loss of several networks over their steps.
pub fn loss_panel(legend: Legend, networks: &[(&str, &Runs)]) -> Panel {
    let loss = |look: &Look| look.training.map(|training| training.loss);
    Panel::Lines(Lines {
        title: "Loss".to_owned(),
        x: "training steps".to_owned(),
        y: "training loss".to_owned(),
        log_y: true,
        legend,
        series: networks.iter().map(|(name, runs)| curve(name, runs, loss)).collect(),
        ..Default::default()
    })
}

/// A figure of several runs over their steps, where they have it.
fn curve(name: &str, runs: &[Vec<Look>], value: impl Fn(&Look) -> Option<f64>) -> Series {
    let points = |looks: &Vec<Look>| -> (Vec<f64>, Vec<f64>) {
        looks.iter().filter_map(|look| Some((look.step as f64, value(look)?))).unzip()
    };
    let steps = runs.first().map(|run| points(run).0).unwrap_or_default();
    Series::over_runs(name, &steps, &runs.iter().map(|run| points(run).1).collect::<Vec<_>>())
}

/// For a table: median, lowest and highest test accuracy at the end of several runs in percent, and the median of the steps at
/// which they first were seen at `accuracy`.
pub fn summary(runs: &[Vec<Look>], accuracy: f64) -> String {
    if runs.is_empty() {
        return "not run".to_owned();
    }
    let last = Spread::of(runs.iter().filter_map(|run| Some(100.0 * run.last()?.test.accuracy)));
    let reached = Spread::of(runs.iter().map(|run| {
        let first = run.iter().find(|look| look.test.accuracy >= accuracy);
        first.map_or(f64::INFINITY, |look| look.step as f64)
    }));
    let reached = if reached.median.is_finite() { reached.median.to_string() } else { "never".to_owned() };
    format!("{:>7.2} {:>7.2} {:>8.2} {reached:>15}", last.median, last.low, last.high)
}
