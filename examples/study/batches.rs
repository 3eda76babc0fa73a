//! Small batches. Statistics of few samples are noisy, and inference takes others: batch norm is said to suffer, batch
//! renormalization to suffer less (Ioffe, arXiv 1702.03275), and frozen statistics to help (Wu and Johnson, arXiv 2105.07576);
//! sub-batches of a large batch are said to generalise better than the whole (Hoffer et al., arXiv 1705.08741).

use std::error::Error;

use wgpu_batch_norm::{Convention, Momentum, SegmentRunning, Shape};

use crate::Study;
use crate::model::{self, Description, Model};
use crate::network::activation::Activation;
use crate::network::context::Context;
use crate::network::digits::{Batches, Digits};
use crate::network::norm::{Norm, NormOptions};
use crate::network::plot::{Legend, Lines, Panel, Series, Spread};
use crate::network::progress::Progress;
use crate::network::tape::Program;
use crate::network::tensor::View;

const HIDDEN_LAYERS: usize = 3;
const WIDTH: usize = 64;
const LEARNING_RATE: f32 = 0.05;
/// How many times --steps a run takes.
const LENGTH: usize = 2;
/// Samples that statistics are taken over: of a batch, or of a sub-batch.
const SIZES: [usize; 7] = [2, 4, 8, 16, 32, 64, 128];
/// Samples of a batch that is cut into sub-batches.
const WHOLE: usize = 128;
/// Of a batch in the running statistics; batch renormalization asks for a smaller one than the customary 0.1.
const MOMENTUM: f64 = 0.03;
/// Shares of training at which batch renormalization may begin to correct, and may correct as much as it ever does.
const RELAXED: [f64; 2] = [0.2, 0.6];
/// r_max and d_max at the end, as in the paper.
const LIMITS: [f64; 2] = [3.0, 5.0];
/// The share of training after which statistics are frozen.
const FROZEN: f64 = 0.5;
/// Steps between changes of the limits.
const INTERVAL: usize = 20;
/// Runs of each seed.
pub const RUNS: usize = SIZES.len() * Variant::ALL.len() * LENGTH;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Without,
    Plain,
    Renormalised,
    Frozen,
    Ghost,
    RenormalisedGhost,
}

impl Variant {
    const ALL: [Self; 6] =
        [Self::Without, Self::Plain, Self::Renormalised, Self::Frozen, Self::Ghost, Self::RenormalisedGhost];

    const fn name(self) -> &'static str {
        match self {
            Self::Without => "without batch norm",
            Self::Plain => "batch norm",
            Self::Renormalised => "batch renormalization",
            Self::Frozen => "frozen after half the steps",
            Self::Ghost => "sub-batches",
            Self::RenormalisedGhost => "renormalised sub-batches",
        }
    }

    /// Whether the batch stays large and only its statistics are those of fewer samples.
    const fn in_sub_batches(self) -> bool {
        matches!(self, Self::Ghost | Self::RenormalisedGhost)
    }

    const fn renormalises(self) -> bool {
        matches!(self, Self::Renormalised | Self::RenormalisedGhost)
    }
}

/// A network bound for one variant and size.
struct Bound<'c> {
    variant: Variant,
    model: Model<'c>,
    batch_size: usize,
    limits: View,
    recording: Program,
}

impl<'c> Bound<'c> {
    fn new(context: &'c Context, digits: &Digits, variant: Variant, size: usize) -> Result<Self, Box<dyn Error>> {
        let batch_size = if variant.in_sub_batches() { WHOLE } else { size };
        let convention = Convention {
            momentum: Momentum::WeightOfNew(MOMENTUM),
            segment_running: SegmentRunning::Averaged,
            ..Convention::pytorch()
        };
        let description = Description {
            hidden_layers: HIDDEN_LAYERS,
            width: WIDTH,
            activation: Activation::Relu,
            convention: (variant != Variant::Without).then_some(convention),
        };
        let limits = context.upload("limits", &[1.0_f32, 0.0]);
        let shape = Shape::new(&[batch_size, WIDTH])?;
        let options = NormOptions {
            shape: variant.in_sub_batches().then(|| shape.with_sub_batches(WHOLE / size)).transpose()?,
            renormalization: variant.renormalises().then_some(&limits),
            ..Default::default()
        };
        let model = Model::new(context, &description, [&digits.training, &digits.test], batch_size, &options)?;
        let recording = model::recording(context, &model.network, &digits.training)?;
        Ok(Self { variant, model, batch_size, limits, recording })
    }

    /// Test accuracies with running statistics and with those of all training images; `None` if asked to stop.
    fn run(
        &self,
        digits: &Digits,
        seed: u64,
        steps: usize,
        progress: &Progress,
    ) -> Result<Option<[f64; 2]>, Box<dyn Error>> {
        let (trainer, context) = (&self.model.trainer, self.model.trainer.context);
        self.model.start(seed, 1.0, LEARNING_RATE)?;
        let mut batches = Batches::new(digits.training.len(), self.batch_size, seed);
        let mut step = 0;
        while step < steps {
            if progress.stopped() {
                return Ok(None);
            }
            let share = step as f64 / steps as f64;
            context.write(&self.limits, &limits(share).map(|limit| limit as f32));
            if self.variant == Variant::Frozen && share >= FROZEN {
                trainer.norms.iter().for_each(Norm::eval);
            }
            let count = (steps - step).min(INTERVAL);
            trainer.step(&batches.take(count));
            progress.add(count as u64);
            step += count;
        }
        let running = trainer.test().accuracy;
        trainer.norms.iter().for_each(Norm::train);
        context.gpu.submit(|pass| self.recording.record(pass));
        Ok(Some([running, trainer.test().accuracy].map(|accuracy| 100.0 * accuracy)))
    }
}

/// r_max and d_max at a share of training: none at first, then more and more.
fn limits(share: f64) -> [f64; 2] {
    let relaxed = ((share - RELAXED[0]) / (RELAXED[1] - RELAXED[0])).clamp(0.0, 1.0);
    [1.0 + (LIMITS[0] - 1.0) * relaxed, LIMITS[1] * relaxed]
}

pub fn run(study: &Study<'_>) -> Result<(), Box<dyn Error>> {
    let Study { context, digits, progress, .. } = study;
    let steps = LENGTH * study.steps;
    println!(
        "batches: test accuracy after {steps} steps, learning rate {LEARNING_RATE}, {HIDDEN_LAYERS} hidden layers of {WIDTH} with ReLU; with running \
         statistics, and with those of all training images"
    );
    // By variant and size: accuracies of all seeds, in both ways to test.
    let mut results = Vec::new();
    for variant in Variant::ALL {
        for size in SIZES {
            if progress.stopped() {
                break;
            }
            let bound = Bound::new(context, digits, variant, size)?;
            let mut accuracies = [const { Vec::new() }; 2];
            for seed in study.seeds() {
                progress.say(format!("batches, {}, {size}", variant.name()));
                let Some(found) = bound.run(digits, seed, steps, progress)? else { break };
                accuracies.iter_mut().zip(found).for_each(|(all, found)| all.push(found));
            }
            if accuracies[0].is_empty() {
                continue;
            }
            let [running, exact] = accuracies.map(Spread::of);
            let text = |spread: Spread| format!("{:.2} % ({:.2} to {:.2})", spread.median, spread.low, spread.high);
            progress.print(&format!("{:<28} {size:>4}   {}   {}", variant.name(), text(running), text(exact)));
            results.push((variant, size, [running, exact]));
        }
    }
    let series = |name: &str, variant: Variant, way: usize| {
        let measured = results.iter().filter(|result| result.0 == variant);
        Series::of_spreads(name, measured.map(|(_, size, spreads)| (*size as f64, spreads[way])))
    };
    let panel = |title: &str, x: &str, series| {
        Panel::Lines(Lines {
            title: title.to_owned(),
            x: x.to_owned(),
            y: "test accuracy in %".to_owned(),
            log_x: true,
            legend: Legend::LowerRight,
            series,
            ..Default::default()
        })
    };
    let small = [Variant::Plain, Variant::Without, Variant::Renormalised, Variant::Frozen];
    let mut curves: Vec<Series> = small.into_iter().map(|variant| series(variant.name(), variant, 0)).collect();
    curves.push(series("batch norm, exact statistics", Variant::Plain, 1));
    let whole = [
        series("sub-batches", Variant::Ghost, 0),
        series("renormalised sub-batches", Variant::RenormalisedGhost, 0),
        series("sub-batches, exact statistics", Variant::Ghost, 1),
    ];
    let title = format!("Statistics of sub-batches of a batch of {WHOLE}");
    let panels =
        [panel("Small batches", "samples in a batch", curves), panel(&title, "samples in a sub-batch", whole.to_vec())];
    study.draw("batches", &panels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_relaxed_over_training() {
        assert_eq!(limits(0.0), [1.0, 0.0], "plain batch norm at first");
        assert_eq!(limits(1.0), LIMITS);
        let [r, d] = limits(0.4);
        approx::assert_relative_eq!(r, 2.0, max_relative = 1e-12);
        approx::assert_relative_eq!(d, 2.5, max_relative = 1e-12);
    }

    mod on_every_adapter {
        use super::*;
        use crate::network::support;

        #[test]
        fn every_variant_learns() {
            let all = support::open_all(None);
            assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
            let digits = Digits::load();
            for context in all.into_iter().map(Context::new) {
                for variant in Variant::ALL {
                    let bound = Bound::new(&context, &digits, variant, 32).unwrap();
                    let found = bound.run(&digits, 1, 60, &Progress::hidden()).unwrap().expect("nobody stops it");
                    // Chance is 10 %.
                    assert!(found.iter().all(|accuracy| *accuracy > 50.0), "{variant:?}: {found:?}");
                }
            }
        }
    }
}
