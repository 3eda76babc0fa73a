//! Initial weights, by seed.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

use super::context::Context;
use super::tensor::Parameter;

/// Draws weights; a seed gives the same ones in the same order of calls.
#[derive(Debug)]
pub struct Initial {
    random: StdRng,
}

impl Initial {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    /// Gaussian values of mean 0.
    ///
    /// # Panics
    /// If the deviation is negative or not finite.
    pub fn normal(&mut self, context: &Context, parameter: &Parameter, deviation: f32) {
        let normal = Normal::new(0.0, deviation).expect("the deviation is a number of at least 0");
        let values: Vec<f32> = normal.sample_iter(&mut self.random).take(parameter.values.len).collect();
        context.write(&parameter.values, &values);
    }

    /// Gaussian values of variance 2 / `inputs`, for layers before a ReLU (He et al., arXiv 1502.01852).
    pub fn he(&mut self, context: &Context, parameter: &Parameter, inputs: usize) {
        self.normal(context, parameter, (2.0 / inputs as f32).sqrt());
    }
}
