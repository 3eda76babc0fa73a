//! The layers of the network, and where their parameters stand in one flat vector.
//!
//! The network on the CPU keeps all parameters in one vector and takes slices of it; the one on the device has them in the same
//! order, so that both can start from the same values and be compared.

use std::ops::Range;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

/// Where the parameters of a batch norm stand.
#[derive(Clone, Debug)]
pub struct NormSlices {
    /// In the parameters.
    pub gamma: Range<usize>,
    /// In the parameters.
    pub beta: Range<usize>,
    /// In the running statistics.
    pub running_mean: Range<usize>,
    /// In the running statistics.
    pub running_variance: Range<usize>,
}

/// A fully connected layer, and the batch norm on its output.
#[derive(Clone, Debug)]
pub struct Layer {
    pub inputs: usize,
    pub outputs: usize,
    /// `outputs × inputs`, row-major.
    pub weight: Range<usize>,
    /// Absent under a batch norm: subtracting the mean would cancel it, and beta does its work.
    pub bias: Option<Range<usize>>,
    pub norm: Option<NormSlices>,
}

/// A stack of fully connected layers: batch norm (or none) and a sigmoid after all but the last.
#[derive(Clone, Debug)]
pub struct Architecture {
    pub layers: Vec<Layer>,
    /// Values in the parameter vector.
    pub parameters: usize,
    /// Values in the vector of running statistics.
    pub running: usize,
}

impl Architecture {
    /// Layers from each of `widths` to the next.
    pub fn new(widths: &[usize], batch_norm: bool) -> Self {
        let (mut parameters, mut running) = (0, 0);
        let last = widths.len().saturating_sub(2);
        let layer = |(index, pair): (usize, &[usize])| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let weight = reserve(&mut parameters, inputs * outputs);
            let norm = (batch_norm && index != last).then(|| NormSlices {
                gamma: reserve(&mut parameters, outputs),
                beta: reserve(&mut parameters, outputs),
                running_mean: reserve(&mut running, outputs),
                running_variance: reserve(&mut running, outputs),
            });
            let bias = norm.is_none().then(|| reserve(&mut parameters, outputs));
            Layer { inputs, outputs, weight, bias, norm }
        };
        let layers = widths.windows(2).enumerate().map(layer).collect();
        Self { layers, parameters, running }
    }

    /// From the inputs to the outputs.
    pub fn widths(&self) -> Vec<usize> {
        let inputs = self.layers.iter().map(|layer| layer.inputs);
        inputs.chain(self.layers.last().map(|layer| layer.outputs)).collect()
    }

    /// Whether hidden layers have a batch norm.
    pub fn has_norms(&self) -> bool {
        self.layers.iter().any(|layer| layer.norm.is_some())
    }

    /// Gaussian weights of the given deviation; biases and betas 0, gammas 1.
    ///
    /// Only weights are drawn, so a seed gives the same weights with and without batch norm.
    ///
    /// # Panics
    /// If the deviation is negative or not finite.
    pub fn initial_parameters(&self, deviation: f32, seed: u64) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        let normal = Normal::new(0.0, deviation).expect("the deviation is a number of at least 0");
        let mut parameters = vec![0.0; self.parameters];
        for layer in &self.layers {
            parameters[layer.weight.clone()].fill_with(|| normal.sample(&mut random));
            if let Some(norm) = &layer.norm {
                parameters[norm.gamma.clone()].fill(1.0);
            }
        }
        parameters
    }

    /// Running mean 0 and running variance 1, what inference before the first step normalises with.
    pub fn initial_running(&self) -> Vec<f32> {
        let mut running = vec![0.0; self.running];
        for norm in self.layers.iter().filter_map(|layer| layer.norm.as_ref()) {
            running[norm.running_variance.clone()].fill(1.0);
        }
        running
    }
}

/// Takes the next `len` values.
fn reserve(end: &mut usize, len: usize) -> Range<usize> {
    let start = *end;
    *end += len;
    start..*end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_networks_start_from_the_same_weights() {
        let widths = [64, 100, 100, 10];
        let [with, without] = [true, false].map(|batch_norm| Architecture::new(&widths, batch_norm));
        let parameters = [&with, &without].map(|architecture| architecture.initial_parameters(0.1, 3));
        for (a, b) in with.layers.iter().zip(&without.layers) {
            assert_eq!(parameters[0][a.weight.clone()], parameters[1][b.weight.clone()]);
        }
    }

    #[test]
    fn slices_follow_each_other() {
        let architecture = Architecture::new(&[64, 100, 30, 10], true);
        assert_eq!(architecture.widths(), [64, 100, 30, 10]);
        let mut end = 0;
        for layer in &architecture.layers {
            let norm = layer.norm.as_ref().map(|norm| [norm.gamma.clone(), norm.beta.clone()]);
            for slice in [layer.weight.clone()].into_iter().chain(norm.into_iter().flatten()).chain(layer.bias.clone())
            {
                assert_eq!(slice.start, end, "{slice:?}");
                end = slice.end;
            }
        }
        assert_eq!(architecture.parameters, end);
        assert!(architecture.layers[2].norm.is_none() && architecture.layers[0].bias.is_none());
    }
}
