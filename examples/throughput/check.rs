//! Compares samples of what an operation wrote with the CPU reference, so that no wrong result is ever timed.
//!
//! A channel's results depend on that channel alone, so a few whole channels are cut out of the tensor and given to the
//! reference as a small problem.

use wgpu_batch_norm::{BatchNormDescriptor, Error, Problem, Shape, reference};

use crate::operations::{Bound, Buffers, Operation, Parameter, noise};
use crate::support::Gpu;

/// Channels that are compared.
const CHANNELS: usize = 4;

/// Elements that are compared in each of them.
const SAMPLES: usize = 64;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Single elements to compare: where they lie, what they must be, and how far off they may be.
struct Expectation<'a> {
    name: &'static str,
    buffer: &'a wgpu::Buffer,
    /// (index in the buffer, expected value, tolerance)
    elements: Vec<(u64, f64, f64)>,
}

/// Whole channels cut out of the tensor.
struct Sample {
    problem: Problem,
    channels: Vec<usize>,
    input: Vec<f32>,
    output_gradient: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Sample {
    fn new(problem: Problem, seed: u32) -> Self {
        let channels = spread(problem.channels as usize, CHANNELS);
        let indices = || {
            (0..problem.outer).flat_map(|outer| channels.iter().map(move |channel| (outer, *channel as u64))).flat_map(
                |(outer, channel)| {
                    let start = (outer * u64::from(problem.channels) + channel) * problem.inner;
                    start..start + problem.inner
                },
            )
        };
        let parameter = |parameter: Parameter| channels.iter().map(|channel| parameter.of(*channel)).collect();
        Self {
            problem,
            input: indices().map(|index| noise(Buffers::input_seed(seed), index)).collect(),
            output_gradient: indices().map(|index| noise(Buffers::gradient_seed(seed), index)).collect(),
            gamma: parameter(Parameter::Gamma),
            beta: parameter(Parameter::Beta),
            mean: parameter(Parameter::Mean),
            variance: parameter(Parameter::Variance),
            channels,
        }
    }

    /// What the operation must have written.
    fn expect<'a>(&self, operation: Operation, buffers: &'a Buffers) -> Result<Vec<Expectation<'a>>, Error> {
        let count = self.channels.len();
        let bn = reference::BatchNorm::new(&BatchNormDescriptor { channels: count as u32, ..Default::default() })?;
        let plan = bn.plan(&Shape::flat(self.problem.outer as usize, count, self.problem.inner as usize))?;
        let mut tensor = vec![0.0_f32; self.input.len()];
        let (mut first, mut second) = (vec![0.0_f32; count], vec![0.0_f32; count]);
        match operation {
            Operation::Training => {
                first.clone_from(&self.mean);
                second.clone_from(&self.variance);
                let running =
                    reference::RunningStatistics { mean: &mut first, variance: &mut second, batches_tracked: None };
                bn.training(
                    &plan,
                    reference::TrainingBuffers {
                        input: &self.input,
                        output: &mut tensor,
                        gamma: Some(&self.gamma),
                        beta: Some(&self.beta),
                        running: Some(running),
                        saved: None,
                    },
                )?;
            }
            Operation::Inference => bn.inference(
                &plan,
                reference::InferenceBuffers {
                    input: &self.input,
                    output: &mut tensor,
                    gamma: Some(&self.gamma),
                    beta: Some(&self.beta),
                    running_mean: &self.mean,
                    running_variance: &self.variance,
                },
            )?,
            Operation::Backward => bn.backward(
                &plan,
                reference::BackwardBuffers {
                    input: &self.input,
                    output_gradient: &self.output_gradient,
                    gamma: Some(&self.gamma),
                    saved: None,
                    input_gradient: Some(reference::Gradient::Overwrite(&mut tensor)),
                    gamma_gradient: Some(reference::Gradient::Overwrite(&mut first)),
                    beta_gradient: Some(reference::Gradient::Overwrite(&mut second)),
                },
            )?,
            Operation::BackwardFrozen => bn.backward_frozen(
                &plan,
                reference::FrozenBackwardBuffers {
                    input: Some(&self.input),
                    output_gradient: &self.output_gradient,
                    gamma: Some(&self.gamma),
                    running_mean: &self.mean,
                    running_variance: &self.variance,
                    input_gradient: Some(reference::Gradient::Overwrite(&mut tensor)),
                    gamma_gradient: Some(reference::Gradient::Overwrite(&mut first)),
                    beta_gradient: Some(reference::Gradient::Overwrite(&mut second)),
                },
            )?,
        }
        let name = if matches!(operation, Operation::Training | Operation::Inference) { "y" } else { "dx" };
        let mut expectations =
            vec![Expectation { name, buffer: &buffers.output, elements: self.tensor_elements(&tensor) }];
        let near = |value: f64| 2e-5 * (1.0 + value.abs());
        // Rounding of a sum of `count` terms, each at most about 2, added in a tree.
        let terms = self.problem.count() as f64;
        let sum = |value: f64| near(value) + (2.0 + terms.log2()) * U * 2.0 * terms;
        match operation {
            Operation::Training => {
                let (mean, variance) = (&buffers.running_mean, &buffers.running_variance);
                expectations.push(self.vector("running mean", mean, &first, near));
                expectations.push(self.vector("running variance", variance, &second, near));
            }
            Operation::Inference => {}
            Operation::Backward | Operation::BackwardFrozen => {
                expectations.push(self.vector("dgamma", &buffers.gamma_gradient, &first, sum));
                expectations.push(self.vector("dbeta", &buffers.beta_gradient, &second, sum));
            }
        }
        Ok(expectations)
    }

    /// Elements spread over every channel, both ends included.
    fn tensor_elements(&self, values: &[f32]) -> Vec<(u64, f64, f64)> {
        let Problem { outer, channels, inner } = self.problem;
        let kept = self.channels.len() as u64;
        let mut elements = Vec::new();
        for (position, channel) in self.channels.iter().enumerate() {
            for place in spread((outer * inner) as usize, SAMPLES) {
                let (outer, inner_place) = (place as u64 / inner, place as u64 % inner);
                let value = f64::from(values[((outer * kept + position as u64) * inner + inner_place) as usize]);
                let index = (outer * u64::from(channels) + *channel as u64) * inner + inner_place;
                elements.push((index, value, 2e-5 * (1.0 + value.abs())));
            }
        }
        elements
    }

    fn vector<'a>(
        &self,
        name: &'static str,
        buffer: &'a wgpu::Buffer,
        values: &[f32],
        tolerance: impl Fn(f64) -> f64,
    ) -> Expectation<'a> {
        let element = |(channel, value): (&usize, &f32)| {
            let value = f64::from(*value);
            (*channel as u64, value, tolerance(value))
        };
        Expectation { name, buffer, elements: self.channels.iter().zip(values).map(element).collect() }
    }
}

/// Up to `wanted` of the numbers below `count`, evenly spread, the first and the last among them.
fn spread(count: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(count);
    (0..wanted).map(|step| if step == 0 { 0 } else { step * (count - 1) / (wanted - 1) }).collect()
}

/// Checks of one set of buffers.
pub struct Checker<'a> {
    gpu: &'a Gpu,
    buffers: &'a Buffers,
    sample: Sample,
}

impl<'a> Checker<'a> {
    pub fn new(gpu: &'a Gpu, problem: Problem, buffers: &'a Buffers) -> Self {
        Self { gpu, buffers, sample: Sample::new(problem, buffers.seed) }
    }

    /// Runs an operation once and compares what it wrote; the message says what is wrong.
    ///
    /// Running statistics start from what they were at first, and outputs from nothing.
    pub fn operation(&self, operation: Operation, bound: &Bound) -> Result<(), String> {
        let Buffers { running_mean, running_variance, frozen_mean, frozen_variance, output, .. } = self.buffers;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(frozen_mean, 0, running_mean, 0, running_mean.size());
        encoder.copy_buffer_to_buffer(frozen_variance, 0, running_variance, 0, running_variance.size());
        encoder.clear_buffer(output, 0, None);
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.submit(|pass| bound.record(pass));
        let expectations = self.sample.expect(operation, self.buffers).map_err(|error| error.to_string())?;
        expectations.iter().try_for_each(|expectation| self.compare(expectation))
    }

    /// Runs the copy once and compares.
    pub fn copy(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<(), String> {
        self.gpu.submit(record);
        // The yardstick copies whole 16-byte units.
        let elements = self.sample.problem.elements() / 4 * 4;
        let exact =
            |index: usize| (index as u64, f64::from(noise(Buffers::input_seed(self.buffers.seed), index as u64)), 0.0);
        let elements = spread(elements as usize, CHANNELS * SAMPLES).into_iter().map(exact).collect();
        self.compare(&Expectation { name: "copy", buffer: &self.buffers.output, elements })
    }

    fn compare(&self, expectation: &Expectation<'_>) -> Result<(), String> {
        let values = self.gather(expectation);
        for ((index, expected, tolerance), value) in expectation.elements.iter().zip(values) {
            let error = (f64::from(value) - expected).abs();
            // NaN is no small error.
            if error.is_nan() || error > *tolerance {
                return Err(format!("{}[{index}] is {value:e}, must be {expected:e}", expectation.name));
            }
        }
        Ok(())
    }

    /// Reads the elements alone, not the whole tensor.
    fn gather(&self, expectation: &Expectation<'_>) -> Vec<f32> {
        let gathered = self.gpu.zeroed("gathered", 4 * expectation.elements.len() as u64);
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (place, (index, ..)) in expectation.elements.iter().enumerate() {
            encoder.copy_buffer_to_buffer(expectation.buffer, 4 * index, &gathered, 4 * place as u64, 4);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.read(&gathered, expectation.elements.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_reach_both_ends_once() {
        assert_eq!(spread(1, 4), [0]);
        assert_eq!(spread(3, 4), [0, 1, 2]);
        assert_eq!(spread(100, 4), [0, 33, 66, 99]);
        assert!(spread(0, 4).is_empty());
    }

    #[test]
    fn a_sample_is_the_channels_of_the_tensor() {
        let problem = Problem { outer: 2, channels: 10, inner: 3 };
        let sample = Sample::new(problem, 5);
        assert_eq!(sample.channels, [0, 3, 6, 9]);
        let index = |outer: u64, channel: u64, inner: u64| (outer * 10 + channel) * 3 + inner;
        // Outer 1, second of the four channels, inner 2.
        assert_eq!(sample.input[(4 + 1) * 3 + 2], noise(Buffers::input_seed(5), index(1, 3, 2)));
        let elements = sample.tensor_elements(&sample.input);
        assert_eq!(elements.len(), 4 * 6);
        assert!(elements.iter().all(|(index, value, _)| *value == f64::from(noise(10, *index))));
    }
}
