//! Inference with batch norms folded into the convolutions, beside inference with them.

use std::time::{Duration, Instant};

use wgpu_batch_norm::Error;

use crate::model::Cnn;
use crate::network::context::Context;
use crate::network::digits::Split;
use crate::network::norm::Norm;
use crate::network::plot::Spread;
use crate::network::tape::Tape;
use crate::network::tensor::Tensor;

/// How long a round should take for each network.
const ROUND: Duration = Duration::from_millis(60);

/// What folding changed.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Without and with folding.
    pub accuracy: [f64; 2],
    /// Milliseconds for all test images, without and with folding.
    pub milliseconds: [Spread; 2],
    pub largest_logit: f64,
    pub largest_difference: f64,
}

/// Times both networks once in each of `rounds`.
pub fn compare(context: &Context, model: &Cnn, test: &Split, rounds: usize) -> Result<Comparison, Error> {
    model.norms().iter().for_each(Norm::eval);
    let images = Tensor::data(context.upload("test images", &test.images), &model.shape(test.len()));
    let labels = context.upload("test labels", &test.labels);
    let bind = |folded: bool| {
        let mut tape = Tape::forward_only(context);
        let logits = if folded { model.folded(&mut tape, &images)? } else { model.forward(&mut tape, &images)? };
        let scores = tape.softmax_cross_entropy(&logits, &labels);
        Ok::<_, Error>((tape.finish()?, logits, scores))
    };
    let networks = [bind(false)?, bind(true)?];
    let mut logits = [const { Vec::new() }; 2];
    let mut accuracy = [0.0; 2];
    for (index, (program, values, scores)) in networks.iter().enumerate() {
        context.gpu.submit(|pass| program.record_forward(pass));
        logits[index] = context.read::<f32>(&values.values);
        accuracy[index] = scores.take(context, 1).accuracy;
    }
    // NaN would be the largest of all.
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value.abs())).max_by(f64::total_cmp).unwrap_or(0.0)
    };
    let [plain, folded] = &logits;

    let time = |index: usize, repeats: u32| {
        let start = Instant::now();
        context.gpu.submit(|pass| (0..repeats).for_each(|_| networks[index].0.record_forward(pass)));
        context.gpu.wait();
        start.elapsed().as_secs_f64() * 1e3 / f64::from(repeats)
    };
    let repeats = (ROUND.as_secs_f64() * 1e3 / time(0, 1)).clamp(1.0, 1000.0) as u32;
    let rounds: Vec<[f64; 2]> = (0..rounds).map(|_| [time(0, repeats), time(1, repeats)]).collect();
    model.norms().iter().for_each(Norm::train);
    Ok(Comparison {
        accuracy,
        milliseconds: [0, 1].map(|index| Spread::of(rounds.iter().map(|round| round[index]))),
        largest_logit: largest(&mut plain.iter().copied()),
        largest_difference: largest(&mut plain.iter().zip(folded).map(|(a, b)| a - b)),
    })
}
