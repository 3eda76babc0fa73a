//! The handwritten digits, and the order of the batches.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

pub const PIXELS: usize = 64;
pub const CLASSES: usize = 10;
/// The customary split.
const TRAINING_LINES: usize = 1437;

pub struct Digits {
    /// Grey levels from 0 to 1.
    images: Vec<[f32; PIXELS]>,
    labels: Vec<f32>,
}

impl Digits {
    pub fn load() -> Self {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for line in include_str!("../data/digits.csv").lines().take(TRAINING_LINES) {
            let mut values = line.split(',').map(|value| value.parse::<f32>().expect("the file holds numbers"));
            images.push(std::array::from_fn(|_| values.next().expect("a line has 64 pixels") / 16.0));
            labels.push(values.next().expect("a label ends the line"));
        }
        Self { images, labels }
    }

    /// Every batch of a run, the same on every rank: sample indices in a new random order each epoch.
    pub fn batches(&self, steps: usize, size: usize, seed: u64) -> Vec<Vec<usize>> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut batches = Vec::with_capacity(steps);
        while batches.len() < steps {
            let mut order: Vec<usize> = (0..self.images.len()).collect();
            order.shuffle(&mut random);
            batches.extend(order.chunks_exact(size).map(<[usize]>::to_vec));
        }
        batches.truncate(steps);
        batches
    }

    /// Images and labels of some samples.
    pub fn gather(&self, chosen: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let images = chosen.iter().flat_map(|&index| self.images[index]).collect();
        (images, chosen.iter().map(|&index| self.labels[index]).collect())
    }
}
