//! The gap between training and test: batch norm is said to regularise, since a sample is seen together with others that happen to
//! be in its batch (Ioffe and Szegedy, section 3.4). Trained from few images and compared at the same training loss.

use std::error::Error;

use wgpu_batch_norm::Convention;

use crate::Study;
use crate::model::{self, Description, Model};
use crate::network::activation::Activation;
use crate::network::digits::Batches;
use crate::network::loss::Metrics;
use crate::network::norm::{Norm, NormOptions};
use crate::network::plot::{Legend, Lines, Panel, Series, Spread};

const HIDDEN_LAYERS: usize = 3;
const WIDTH: usize = 64;
/// Images to learn from.
const IMAGES: u32 = 200;
const BATCH_SIZES: [usize; 2] = [10, 100];
const LEARNING_RATE: f32 = 0.1;
/// How many times --steps a run may take; it ends at the smallest loss.
const LENGTH: usize = 5;
/// Steps from one look to the next.
const INTERVAL: usize = 10;
/// Losses over the whole training subset that runs are compared at.
const LOSSES: [f64; 7] = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01];
/// Runs of each seed.
pub const RUNS: usize = 2 * BATCH_SIZES.len() * LENGTH;

/// Training subset and test set, both with running statistics.
type Look = [Metrics; 2];

pub fn run(study: &Study<'_>) -> Result<(), Box<dyn Error>> {
    let Study { context, digits, progress, steps, .. } = study;
    let few = digits.training.gather(&(0..IMAGES).collect::<Vec<_>>());
    println!(
        "gap: from {IMAGES} images, learning rate {LEARNING_RATE}, {HIDDEN_LAYERS} hidden layers of {WIDTH} with ReLU"
    );
    let mut variants = Vec::new();
    for (title, convention) in [("without batch norm", None), ("with batch norm", Some(Convention::pytorch()))] {
        for batch_size in BATCH_SIZES {
            let activation = Activation::Relu;
            let description = Description { hidden_layers: HIDDEN_LAYERS, width: WIDTH, activation, convention };
            let model = Model::new(context, &description, [&few, &digits.test], batch_size, &NormOptions::default())?;
            let (subset, scores) = model::evaluation(context, &model.network, &few)?;
            let mut runs = Vec::new();
            for seed in study.seeds() {
                if progress.stopped() {
                    break;
                }
                progress.say(format!("gap, {title}, seed {seed}"));
                model.start(seed, 1.0, LEARNING_RATE)?;
                let mut batches = Batches::new(few.len(), batch_size, seed);
                let (mut looks, mut left) = (Vec::new(), LENGTH * steps);
                while left > 0 && !progress.stopped() {
                    let count = left.min(INTERVAL);
                    model.trainer.step(&batches.take(count));
                    model.trainer.norms.iter().for_each(Norm::eval);
                    context.gpu.submit(|pass| subset.record_forward(pass));
                    model.trainer.norms.iter().for_each(Norm::train);
                    let look: Look = [scores.take(context, 1), model.trainer.test()];
                    looks.push(look);
                    (left, _) = (left - count, progress.add(count as u64));
                    if look[0].loss < LOSSES[LOSSES.len() - 1] {
                        progress.add(left as u64);
                        left = 0;
                    }
                }
                // A run that was cut short is better than none, and worse than those that were not.
                if runs.is_empty() || !progress.stopped() {
                    runs.push(looks);
                }
            }
            variants.push((format!("{title}, batches of {batch_size}"), runs));
        }
    }
    for (name, runs) in &variants {
        progress.print(&format!("{name:<36} {}", describe(runs)));
    }
    let panel = |title: &str, y: &str, legend, value: fn(&Look) -> f64| {
        let series = |(name, runs): &(String, Vec<Vec<Look>>)| {
            let at = LOSSES.iter().filter_map(|&loss| {
                let reached: Vec<f64> =
                    runs.iter().filter_map(|run| first_at(run, loss)).map(|(_, look)| value(look)).collect();
                // Only where every seed came so far, or else the curve would be that of other seeds.
                let spread = Spread::of(reached.iter().copied());
                (!runs.is_empty() && reached.len() == runs.len()).then_some((loss, spread))
            });
            Series::of_spreads(name, at)
        };
        Panel::Lines(Lines {
            title: title.to_owned(),
            x: "training loss first below".to_owned(),
            y: y.to_owned(),
            log_x: true,
            legend,
            series: variants.iter().map(series).collect(),
            ..Default::default()
        })
    };
    let panels = [
        panel("Test accuracy at the same training loss", "test accuracy in %", Legend::LowerLeft, |look| {
            100.0 * look[1].accuracy
        }),
        panel("Gap at the same training loss", "training − test accuracy in %", Legend::UpperLeft, |look| {
            100.0 * (look[0].accuracy - look[1].accuracy)
        }),
    ];
    study.draw("gap", &panels)
}

/// The first look at a training loss below `loss`, and which it is.
fn first_at(run: &[Look], loss: f64) -> Option<(usize, &Look)> {
    run.iter().enumerate().find(|(_, [training, _])| training.loss < loss)
}

/// For the table: at the smallest loss.
fn describe(runs: &[Vec<Look>]) -> String {
    let loss = LOSSES[LOSSES.len() - 1];
    let reached: Vec<_> = runs.iter().filter_map(|run| first_at(run, loss)).collect();
    if reached.is_empty() {
        return format!("loss {loss} in none of {} runs", runs.len());
    }
    let spread = |value: &dyn Fn(&(usize, &Look)) -> f64| {
        let Spread { median, low, high } = Spread::of(reached.iter().map(value));
        format!("{median:.2} ({low:.2} to {high:.2})")
    };
    format!(
        "loss {loss} in {} of {} runs, after {} steps; test accuracy {} %, gap {} %, test loss {}",
        reached.len(),
        runs.len(),
        Spread::of(reached.iter().map(|(index, _)| ((index + 1) * INTERVAL) as f64)).median,
        spread(&|(_, look)| 100.0 * look[1].accuracy),
        spread(&|(_, look)| 100.0 * (look[0].accuracy - look[1].accuracy)),
        spread(&|(_, look)| look[1].loss),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_compared_where_they_first_reach_a_loss() {
        let look =
            |loss: f64| [Metrics { loss, accuracy: 1.0 - loss / 4.0 }, Metrics { loss: 2.0 * loss, accuracy: 0.5 }];
        let run = [look(2.0), look(0.4), look(0.6), look(0.004)];
        assert_eq!(first_at(&run, 0.5).unwrap().0, 1);
        assert_eq!(first_at(&run, 0.01).unwrap().0, 3);
        assert!(first_at(&run, 0.001).is_none());
        assert_eq!(describe(&[vec![look(1.0)]]), "loss 0.01 in none of 1 runs");
        let text = describe(&[run.to_vec(), vec![look(1.0)]]);
        assert!(
            text.starts_with(
                "loss 0.01 in 1 of 2 runs, after 40 steps; test accuracy 50.00 (50.00 to 50.00) %, gap 49.90"
            ),
            "{text}"
        );
    }
}
