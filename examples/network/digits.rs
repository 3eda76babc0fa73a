//! The handwritten digits: parsing, the split, and the order of the batches.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Pixels of an image, 8 × 8.
pub const PIXELS: usize = 64;
/// Classes, the digits 0 to 9.
pub const CLASSES: usize = 10;
/// The customary split; different people wrote the lines before and after it.
const TRAINING_LINES: usize = 1437;

const CSV: &str = include_str!("../data/digits.csv");

/// One part of the data.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Grey levels from 0 to 1, a row of `PIXELS` per image.
    pub images: Vec<f32>,
    /// The digit on each image.
    pub labels: Vec<u32>,
}

impl Split {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The chosen images and labels, copied.
    pub fn gather(&self, chosen: &[u32]) -> Self {
        let image = |&index: &u32| &self.images[index as usize * PIXELS..][..PIXELS];
        Self {
            images: chosen.iter().flat_map(image).copied().collect(),
            labels: chosen.iter().map(|&index| self.labels[index as usize]).collect(),
        }
    }
}

/// Training and test part.
#[derive(Clone, Debug)]
pub struct Digits {
    pub training: Split,
    pub test: Split,
}

impl Digits {
    /// The digits embedded in the program.
    pub fn load() -> Self {
        let (mut training, mut test) = (Split::default(), Split::default());
        for (index, line) in CSV.lines().enumerate() {
            let split = if index < TRAINING_LINES { &mut training } else { &mut test };
            let mut values = line.split(',').map(|value| value.parse::<u8>().expect("the file holds small numbers"));
            split.images.extend(values.by_ref().take(PIXELS).map(|grey| f32::from(grey) / 16.0));
            split.labels.push(values.next().expect("a label ends the line").into());
        }
        Self { training, test }
    }
}

/// An endless sequence of batches: each epoch a new random order of all samples, cut into batches, the rest left out.
#[derive(Debug)]
pub struct Batches {
    random: StdRng,
    order: Vec<u32>,
    next: usize,
    size: usize,
}

impl Batches {
    /// # Panics
    /// If there are fewer samples than one batch takes.
    pub fn new(samples: usize, size: usize, seed: u64) -> Self {
        assert!((1..=samples).contains(&size), "{samples} samples do not fill a batch of {size}");
        // The whole order counts as used, so the first batch shuffles.
        Self { random: StdRng::seed_from_u64(seed), order: (0..samples as u32).collect(), next: samples, size }
    }

    /// The sample indices of the next `count` batches, one batch after the other.
    pub fn take(&mut self, count: usize) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(count * self.size);
        for _ in 0..count {
            if self.next + self.size > self.order.len() {
                self.order.shuffle(&mut self.random);
                self.next = 0;
            }
            chosen.extend_from_slice(&self.order[self.next..self.next + self.size]);
            self.next += self.size;
        }
        chosen
    }
}
