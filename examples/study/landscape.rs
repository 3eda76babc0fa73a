//! The loss along its gradient: batch norm is said to make the loss smoother, so that a gradient tells more about what comes after a
//! step of some size (Santurkar et al., arXiv 1805.11604, sections 3 and 4).

use std::error::Error;

use wgpu_batch_norm::Convention;

use crate::Study;
use crate::model::{Description, Model};
use crate::network::activation::Activation;
use crate::network::digits::Batches;
use crate::network::norm::NormOptions;
use crate::network::plot::{Legend, Lines, Panel, Series, Spread};

const HIDDEN_LAYERS: usize = 5;
const WIDTH: usize = 48;
const BATCH_SIZE: usize = 120;
const LEARNING_RATE: f32 = 0.1;
/// How far along the gradient the loss is looked at, in learning rates.
const REACHES: [f32; 4] = [0.5, 1.0, 2.0, 4.0];
/// How often a run looks.
const LOOKS: usize = 15;
/// Runs of each seed.
pub const RUNS: usize = 2;

/// What lies along the gradient of one batch.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// From the lowest to the highest loss, the one before the step included.
    range: f64,
    /// The largest ‖∇L(θ − η∇L) − ∇L‖ / (η‖∇L‖), a lower bound of the gradient's Lipschitz constant there.
    roughness: f64,
}

impl Look {
    /// From losses and gradients at the start and at each reach.
    fn new(start: &(f64, Vec<f64>), reached: &[(f64, (f64, Vec<f64>))]) -> Self {
        let losses = Spread::of(reached.iter().map(|(_, (loss, _))| *loss).chain([start.0]));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let length = norm(&mut start.1.iter().copied());
        let roughness = reached.iter().map(|(distance, (_, gradient))| {
            norm(&mut gradient.iter().zip(&start.1).map(|(a, b)| a - b)) / (distance * length)
        });
        Self { range: losses.high - losses.low, roughness: Spread::of(roughness).high }
    }
}

pub fn run(study: &Study<'_>) -> Result<(), Box<dyn Error>> {
    let Study { context, digits, progress, steps, .. } = study;
    println!(
        "landscape: the loss of a batch of {BATCH_SIZE} up to {} learning rates of {LEARNING_RATE} along its gradient, over {steps} steps; \
         {HIDDEN_LAYERS} hidden layers of {WIDTH} with ReLU",
        REACHES[REACHES.len() - 1]
    );
    let interval = steps.div_ceil(LOOKS);
    let mut variants = Vec::new();
    for (title, convention) in [("with batch norm", Some(Convention::pytorch())), ("without", None)] {
        let activation = Activation::Relu;
        let description = Description { hidden_layers: HIDDEN_LAYERS, width: WIDTH, activation, convention };
        let data = [&digits.training, &digits.test];
        let model = Model::new(context, &description, data, BATCH_SIZE, &NormOptions::default())?;
        let mut runs = Vec::new();
        for seed in study.seeds() {
            if progress.stopped() {
                break;
            }
            progress.say(format!("landscape, seed {seed}"));
            model.start(seed, 1.0, LEARNING_RATE)?;
            let mut batches = Batches::new(digits.training.len(), BATCH_SIZE, seed);
            let (mut looks, mut step) = (Vec::new(), 0);
            while step < *steps && !progress.stopped() {
                looks.push(look(&model, &batches.take(1)));
                let count = (steps - step).min(interval);
                model.trainer.step(&batches.take(count));
                progress.add(count as u64);
                step += count;
            }
            // A run that was cut short is better than none, and worse than those that were not.
            if runs.is_empty() || !progress.stopped() {
                runs.push(looks);
            }
        }
        // All looks of all seeds but the first ones, where nothing is trained yet.
        let over = |value: fn(&Look) -> f64| {
            let Spread { median, low, high } = Spread::of(runs.iter().flat_map(|run| run.iter().skip(1)).map(value));
            format!("{median:.3} ({low:.3} to {high:.3})")
        };
        if runs.is_empty() {
            break;
        }
        progress.print(&format!(
            "{title:<17} range of the loss {}, change of the gradient {}",
            over(|look| look.range),
            over(|look| look.roughness)
        ));
        variants.push((title, runs));
    }
    let at: Vec<f64> = (0..*steps).step_by(interval).map(|step| step as f64).collect();
    let panel = |title: &str, y: &str, value: fn(&Look) -> f64| {
        let series = |(name, runs): &(&str, Vec<Vec<Look>>)| {
            let values = runs.iter().map(|run| run.iter().map(value).collect());
            Series::over_runs(name, &at, &values.collect::<Vec<_>>())
        };
        Panel::Lines(Lines {
            title: title.to_owned(),
            x: "training steps".to_owned(),
            y: y.to_owned(),
            log_y: true,
            legend: Legend::UpperRight,
            series: variants.iter().map(series).collect(),
            ..Default::default()
        })
    };
    let panels = [
        panel("Range of the loss along the gradient", "highest − lowest loss", |look| look.range),
        panel("Change of the gradient along itself", "change / (distance · norm)", |look| look.roughness),
    ];
    study.draw("landscape", &panels)
}

/// At the batch; the parameters are left as they were.
fn look(model: &Model<'_>, batch: &[u32]) -> Look {
    let (trainer, context) = (&model.trainer, model.trainer.context);
    let parameters = model.network.parameters();
    let measure = || {
        trainer.training_scores.take(context, 1);
        trainer.feed.run(batch, |pass| trainer.training.record(pass));
        let gradients: Vec<Vec<f32>> = parameters.iter().map(|parameter| context.read(&parameter.gradient)).collect();
        (trainer.training_scores.take(context, 1).loss, gradients)
    };
    let flat = |gradients: &[Vec<f32>]| gradients.iter().flatten().copied().map(f64::from).collect::<Vec<_>>();
    let place: Vec<Vec<f32>> = parameters.iter().map(|parameter| context.read(&parameter.values)).collect();
    let (loss, direction) = measure();
    let reached = REACHES.map(|reach| {
        let distance = reach * LEARNING_RATE;
        for ((parameter, values), direction) in parameters.iter().zip(&place).zip(&direction) {
            let moved: Vec<f32> = values.iter().zip(direction).map(|(value, slope)| value - distance * slope).collect();
            context.write(&parameter.values, &moved);
        }
        let (loss, gradients) = measure();
        (f64::from(distance), (loss, flat(&gradients)))
    });
    for (parameter, values) in parameters.iter().zip(&place) {
        context.write(&parameter.values, values);
    }
    Look::new(&(loss, flat(&direction)), &reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parabola_is_as_rough_as_its_curvature() {
        // L = 3·x² at x = 1, so the gradient is 6·x and changes by 6 a unit.
        let at = |x: f64| (3.0 * x * x, vec![6.0 * x]);
        let reached = [0.05, 0.1].map(|distance| (distance, at(1.0 - 6.0 * distance)));
        let look = Look::new(&at(1.0), &reached);
        approx::assert_relative_eq!(look.roughness, 6.0, max_relative = 1e-12);
        approx::assert_relative_eq!(look.range, 3.0 - 3.0 * 0.4 * 0.4, max_relative = 1e-12);
    }
}
