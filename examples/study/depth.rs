//! Gradients over depth: batch norm is said to prevent vanishing and exploding gradients (Ioffe and Szegedy, section 3.3). At
//! initialisation, without residual connections, it makes them explode instead (Yang et al., arXiv 1902.08129).

use std::error::Error;
use std::ops::Range;

use wgpu_batch_norm::Convention;

use crate::Study;
use crate::model::{Description, Model};
use crate::network::activation::Activation;
use crate::network::digits::Batches;
use crate::network::norm::NormOptions;
use crate::network::plot::{Legend, Lines, Panel, Series, Spread};

/// With the room that the legend takes below the curves, as a share of what these take: those of sigmoids leave some themselves.
const ACTIVATIONS: [(&str, Activation, f64); 2] =
    [("relu", Activation::Relu, 0.7), ("sigmoid", Activation::Sigmoid, 0.05)];
/// Factors on the customary deviation of weights.
const SCALES: [f32; 3] = [0.5, 1.0, 2.0];
const HIDDEN_LAYERS: usize = 20;
const WIDTH: usize = 64;
const BATCH_SIZE: usize = 120;
const LEARNING_RATE: f32 = 0.03;
/// Runs of each seed.
pub const RUNS: usize = 2 * ACTIVATIONS.len() * SCALES.len();

/// Gradient norms by layer, of a seed each.
type Norms = Vec<Vec<f64>>;

pub fn run(study: &Study<'_>) -> Result<(), Box<dyn Error>> {
    let Study { context, digits, progress, steps, .. } = study;
    println!(
        "depth: norms of the gradients of the weights of {HIDDEN_LAYERS} hidden layers of {WIDTH}, batches of {BATCH_SIZE}, before and after \
         {steps} steps at learning rate {LEARNING_RATE}"
    );
    for (name, activation, room) in ACTIVATIONS {
        if progress.stopped() {
            break;
        }
        let mut before: Vec<(String, Norms)> = Vec::new();
        let mut after = Vec::new();
        for (title, convention) in [("without batch norm", None), ("with batch norm", Some(Convention::pytorch()))] {
            let description = Description { hidden_layers: HIDDEN_LAYERS, width: WIDTH, activation, convention };
            let data = [&digits.training, &digits.test];
            let model = Model::new(context, &description, data, BATCH_SIZE, &NormOptions::default())?;
            for scale in SCALES {
                let [mut first, mut last] = [Norms::new(), Norms::new()];
                for seed in study.seeds() {
                    if progress.stopped() {
                        break;
                    }
                    progress.say(format!("depth, {name}, seed {seed}"));
                    model.start(seed, scale, LEARNING_RATE)?;
                    let mut batches = Batches::new(digits.training.len(), BATCH_SIZE, seed);
                    first.push(gradient_norms(&model, &mut batches));
                    let looks = model.trainer.run(&mut batches, *steps, *steps, progress);
                    if looks.last().is_some_and(|look| look.step == *steps) {
                        last.push(gradient_norms(&model, &mut batches));
                    }
                }
                if first.is_empty() {
                    break;
                }
                let line = format!("{name}, {title}, factor {scale}");
                progress.print(&format!("{line:<42} factor a layer towards the input: {}", growth(&first)));
                let named = |norms| (format!("factor {scale}, {title}"), norms);
                before.push(named(first));
                after.push(named(last));
            }
        }
        let panel = |title: &str, all: &[(String, Norms)]| {
            let values = all.iter().flat_map(|(_, runs)| runs.iter().flatten().copied());
            let layers: Vec<f64> = (1..=HIDDEN_LAYERS).map(|layer| layer as f64).collect();
            let series = |(name, runs): &(String, Norms)| Series::over_runs(name, &layers, runs);
            Panel::Lines(Lines {
                title: format!("{name}, {title}"),
                x: "hidden layer".to_owned(),
                y: "norm of the weights' gradient".to_owned(),
                y_range: range_with_legend(values, room),
                log_y: true,
                legend: Legend::LowerRight,
                series: all.iter().map(series).collect(),
                ..Default::default()
            })
        };
        let panels = [panel("before training", &before), panel(&format!("after {steps} steps"), &after)];
        study.draw(&format!("depth_{name}"), &panels)?;
    }
    Ok(())
}

/// As far as the values go, with room for the legend below.
fn range_with_legend(values: impl Iterator<Item = f64>, room: f64) -> Option<Range<f64>> {
    let usable: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
    let Spread { low, high, .. } = Spread::of(usable);
    (low < high).then(|| low * (low / high).powf(room)..high * (high / low).powf(0.05))
}

/// Of the next batch, in training mode; the weights stay as they are.
fn gradient_norms(model: &Model<'_>, batches: &mut Batches) -> Vec<f64> {
    let trainer = &model.trainer;
    trainer.feed.run(&batches.take(1), |pass| trainer.training.record(pass));
    let norm = |gradient: Vec<f32>| gradient.into_iter().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let hidden = &model.network.layers[..HIDDEN_LAYERS];
    hidden.iter().map(|layer| norm(trainer.context.read(&layer.dense.weight.gradient))).collect()
}

/// By how much gradients grow from a layer to the one before it: the geometric mean over the layers, but for the first, whose
/// inputs are the images. Median and extremes over the seeds.
fn growth(runs: &Norms) -> String {
    let factor = |norms: &Vec<f64>| {
        let (second, last) = (norms[1], norms[norms.len() - 1]);
        (second / last).powf(1.0 / (norms.len() - 2) as f64)
    };
    let spread = Spread::of(runs.iter().map(factor));
    format!("{:.3} ({:.3} to {:.3})", spread.median, spread.low, spread.high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_factor_of_a_layer() {
        let doubling = vec![99.0, 8.0, 4.0, 2.0, 1.0];
        assert_eq!(growth(&vec![doubling]), "2.000 (2.000 to 2.000)");
    }
}
