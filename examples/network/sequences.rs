//! The digits as sequences of unequal length: a row of pixels a step, and the lower rows of each image cut off.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::digits::{PIXELS, Split};

/// Rows of an image, and so steps of the longest sequence.
pub const STEPS: usize = 8;
/// Pixels of a row.
pub const WIDTH: usize = PIXELS / STEPS;
/// Rows that every image keeps.
pub const SHORTEST: u32 = 4;

/// Sequences, padded with zeros to `STEPS`.
#[derive(Clone, Debug)]
pub struct Sequences {
    pub rows: Vec<f32>,
    pub lengths: Vec<u32>,
    pub labels: Vec<u32>,
}

impl Sequences {
    /// Cuts each image at a height drawn by seed.
    pub fn cut(split: &Split, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let lengths: Vec<u32> = (0..split.len()).map(|_| random.random_range(SHORTEST..=STEPS as u32)).collect();
        let mut rows = split.images.clone();
        for (image, &length) in rows.chunks_mut(PIXELS).zip(&lengths) {
            image[length as usize * WIDTH..].fill(0.0);
        }
        Self { rows, lengths, labels: split.labels.clone() }
    }

    /// The first steps of all sequences before the second steps, and so on.
    pub fn by_step(&self) -> Vec<f32> {
        let sequences = self.lengths.len();
        let value = |index: usize| {
            let (step, rest) = (index / (sequences * WIDTH), index % (sequences * WIDTH));
            self.rows[(rest / WIDTH * STEPS + step) * WIDTH + rest % WIDTH]
        };
        (0..self.rows.len()).map(value).collect()
    }
}
