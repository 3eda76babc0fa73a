//! Fine-tuning on another task in very small batches: with their own statistics, and with those of the first task, frozen.

use wgpu_batch_norm::Error;

use crate::model::{Cnn, Saved};
use crate::network::context::Context;
use crate::network::digits::{Batches, CLASSES, Digits, PIXELS, Split};
use crate::network::feed::Feed;
use crate::network::norm::Norm;
use crate::network::optimizer::{Method, Optimizer};
use crate::network::progress::Progress;
use crate::network::tape::Tape;
use crate::network::tensor::Tensor;
use crate::network::trainer::{Look, Trainer};

/// Samples in a batch of the second task.
pub const BATCH_SIZE: usize = 2;
/// Images of the second task to learn from.
pub const SAMPLES: usize = 200;
/// Plain SGD, in steps small enough for such batches.
const LEARNING_RATE: f32 = 0.01;

/// What is learned after the first task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The same images under other names, so that the statistics of the first task suit the second one.
    Renamed,
    /// Other images under the same names: turned over the diagonal.
    Turned,
}

impl Task {
    fn of(self, split: &Split) -> Split {
        let Split { mut images, mut labels } = split.clone();
        match self {
            Self::Renamed => labels.iter_mut().for_each(|label| *label = (3 * *label + 1) % CLASSES as u32),
            Self::Turned => {
                let turned = |index: usize| split.images[index / PIXELS * PIXELS + index % 8 * 8 + index % PIXELS / 8];
                images = (0..images.len()).map(turned).collect();
            }
        }
        Split { images, labels }
    }
}

/// Which statistics batch norms take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Those of each small batch, which also update the running ones.
    Batch,
    /// The running ones of the first task, as constants in forward and backward.
    Frozen,
}

/// Trains `model` on the second task, from what it was when it was saved but with a new head; it is left as it was saved.
pub fn run(
    context: &Context,
    (model, saved): (&Cnn, &Saved),
    digits: &Digits,
    (task, statistics): (Task, Statistics),
    (times, seed): ([usize; 2], u64),
    progress: &Progress,
) -> Result<Vec<Look>, Error> {
    model.load(context, saved)?;
    model.replace_head(context, seed);
    let few: Vec<u32> = (0..SAMPLES as u32).collect();
    let (training, test) = (task.of(&digits.training.gather(&few)), task.of(&digits.test));
    let method = (Method::Sgd { momentum: 0.0 }, LEARNING_RATE);
    let trainer = trainer(context, model, &training, &test, BATCH_SIZE, method)?;
    let mode = match statistics {
        Statistics::Batch => Norm::train,
        Statistics::Frozen => Norm::eval,
    };
    let looks = trainer.run_as(&mut Batches::new(SAMPLES, BATCH_SIZE, seed), times, mode, progress);
    model.load(context, saved)?;
    model.norms().iter().for_each(Norm::train);
    Ok(looks)
}

/// Binds a network to training and test images.
pub fn trainer<'c>(
    context: &'c Context,
    model: &Cnn,
    training: &Split,
    test: &Split,
    batch_size: usize,
    (method, learning_rate): (Method, f32),
) -> Result<Trainer<'c>, Error> {
    let mut feed = Feed::new(context, batch_size);
    let images = feed.add(&context.upload("training images", &training.images), PIXELS);
    let labels = feed.add(&context.upload("training labels", &training.labels), 1);
    let mut tape = Tape::new(context);
    let logits = model.forward(&mut tape, &Tensor::data(images, &model.shape(batch_size)))?;
    let training_scores = tape.softmax_cross_entropy(&logits, &labels);
    let training = tape.finish()?;

    let images = Tensor::data(context.upload("test images", &test.images), &model.shape(test.len()));
    let mut tape = Tape::forward_only(context);
    let logits = model.forward(&mut tape, &images)?;
    let test_scores = tape.softmax_cross_entropy(&logits, &context.upload("test labels", &test.labels));
    Ok(Trainer {
        context,
        feed,
        training,
        training_scores,
        optimizer: Optimizer::new(context, method, learning_rate, model.parameters()),
        test: tape.finish()?,
        test_scores,
        norms: model.norms(),
    })
}
