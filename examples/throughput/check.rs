//! Compares samples of what an operation wrote with the CPU reference, so that no wrong result is ever timed.
//!
//! A channel's results depend on that channel alone, so a few whole channels are cut out of the tensor and given to the
//! reference as a small problem.

use wgpu_batch_norm::{BatchNormDescriptor, Error, Layout, Problem, Shape, reference};

use crate::buffers::{Buffers, Given, Parameter};
use crate::configuration::{Configuration, Source};
use crate::element::Element;
use crate::operations::{Bound, Operation};
use crate::support::Gpu;

/// Channels that are compared.
const CHANNELS: usize = 4;

/// Elements that are compared in each of them.
const SAMPLES: usize = 64;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Pre-activations nearer to 0 than this may have the other sign on a device.
const KINK: f64 = 1e-5;

/// Single elements to compare: where they lie, what they must be, and how far off they may be.
struct Expectation<'a> {
    name: &'static str,
    buffer: &'a wgpu::Buffer,
    stored: Stored,
    /// (index in the buffer, expected value, tolerance)
    elements: Vec<(u64, f64, f64)>,
}

/// How the values of a buffer are stored.
#[derive(Clone, Copy)]
enum Stored {
    As(Element),
    Bits,
}

impl Stored {
    /// The word that holds a value.
    const fn word(self, index: u64) -> u64 {
        match self {
            Self::As(element) => index * element.size() / 4,
            Self::Bits => index / 32,
        }
    }

    fn decode(self, index: u64, word: u32) -> f64 {
        match self {
            Self::As(element) => f64::from(element.decode(index, word)),
            Self::Bits => f64::from(word >> (index % 32) & 1),
        }
    }
}

/// Whole channels cut out of the tensor, as it is stored, in f64: what the reference makes of them is not rounded.
struct Sample {
    problem: Problem,
    configuration: Configuration,
    channels: Vec<usize>,
    input: Vec<f64>,
    output_gradient: Vec<f64>,
    residual: Option<Vec<f64>>,
    /// What the backwards are given as y.
    output: Option<Vec<f64>>,
    /// What the backwards are given as mask.
    mask: Option<Vec<u32>>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
}

/// What an operation makes of a sample.
struct Expected {
    /// y or dx.
    tensor: Vec<f64>,
    /// dz.
    residual_gradient: Option<Vec<f64>>,
    /// Running mean and variance, or dgamma and dbeta.
    vectors: [Vec<f64>; 2],
}

impl Sample {
    fn new(problem: Problem, configuration: Configuration, seed: u32) -> Self {
        let channels = spread(problem.channels as usize, CHANNELS);
        let indices = || {
            (0..problem.outer).flat_map(|outer| channels.iter().map(move |channel| (outer, *channel as u64))).flat_map(
                |(outer, channel)| {
                    let start = (outer * u64::from(problem.channels) + channel) * problem.inner;
                    start..start + problem.inner
                },
            )
        };
        let tensor = |given: Given| -> Vec<f64> {
            indices().map(|index| f64::from(configuration.element.round(given.at(seed, index)))).collect()
        };
        let mask = || {
            let bits: Vec<bool> = indices().map(|index| Given::Mask.at(seed, index) > 0.0).collect();
            let word = |bits: &[bool]| bits.iter().rev().fold(0, |word, bit| word << 1 | u32::from(*bit));
            bits.chunks(32).map(word).collect()
        };
        let parameter =
            |parameter: Parameter| channels.iter().map(|channel| f64::from(parameter.of(*channel))).collect();
        Self {
            problem,
            configuration,
            input: tensor(Given::Input),
            output_gradient: tensor(Given::OutputGradient),
            residual: configuration.residual.then(|| tensor(Given::Residual)),
            output: (configuration.derivative() == Some(Source::Output)).then(|| tensor(Given::Output)),
            mask: (configuration.derivative() == Some(Source::Mask)).then(mask),
            gamma: parameter(Parameter::Gamma),
            beta: parameter(Parameter::Beta),
            mean: parameter(Parameter::Mean),
            variance: parameter(Parameter::Variance),
            channels,
        }
    }

    /// What the reference makes of the sample.
    fn refer(&self, operation: Operation, descriptor: &BatchNormDescriptor) -> Result<Expected, Error> {
        let count = self.channels.len();
        let bn = reference::BatchNorm::new(descriptor)?;
        let plan = bn.plan(&Shape::flat(self.problem.outer as usize, count, self.problem.inner as usize))?;
        let mut tensor = vec![0.0; self.input.len()];
        let [mut first, mut second] = [self.mean.clone(), self.variance.clone()];
        let mut residual_gradient = self.residual.as_ref().map(|residual| vec![0.0; residual.len()]);
        let (gamma, beta) = (Some(self.gamma.as_slice()), Some(self.beta.as_slice()));
        let residual = self.residual.as_deref();
        let activation = match (&self.output, &self.mask) {
            (Some(output), _) => reference::ActivationState::Output(output),
            (_, Some(mask)) => reference::ActivationState::Mask(mask),
            (None, None) => reference::ActivationState::Recompute { residual },
        };
        let overwrite = reference::Gradient::Overwrite;
        match operation {
            Operation::Training => {
                let running =
                    reference::RunningStatistics { mean: &mut first, variance: &mut second, batches_tracked: None };
                let buffers = reference::TrainingBuffers {
                    input: &self.input,
                    output: &mut tensor,
                    gamma,
                    beta,
                    residual,
                    running: Some(running),
                    ..Default::default()
                };
                bn.training(&plan, buffers)?;
            }
            Operation::Inference => {
                let buffers = reference::InferenceBuffers {
                    input: &self.input,
                    output: &mut tensor,
                    gamma,
                    beta,
                    residual,
                    running_mean: &self.mean,
                    running_variance: &self.variance,
                    ..Default::default()
                };
                bn.inference(&plan, buffers)?;
            }
            Operation::Backward => {
                let buffers = reference::BackwardBuffers {
                    input: &self.input,
                    output_gradient: &self.output_gradient,
                    gamma,
                    beta,
                    activation,
                    input_gradient: Some(overwrite(&mut tensor)),
                    gamma_gradient: Some(reference::Gradient::Overwrite(&mut first)),
                    beta_gradient: Some(reference::Gradient::Overwrite(&mut second)),
                    residual_gradient: residual_gradient.as_deref_mut().map(overwrite),
                    ..Default::default()
                };
                bn.backward(&plan, buffers)?;
            }
            Operation::BackwardFrozen => {
                let buffers = reference::FrozenBackwardBuffers {
                    input: Some(&self.input),
                    output_gradient: &self.output_gradient,
                    gamma,
                    beta,
                    running_mean: &self.mean,
                    running_variance: &self.variance,
                    activation,
                    input_gradient: Some(overwrite(&mut tensor)),
                    gamma_gradient: Some(reference::Gradient::Overwrite(&mut first)),
                    beta_gradient: Some(reference::Gradient::Overwrite(&mut second)),
                    residual_gradient: residual_gradient.as_deref_mut().map(overwrite),
                };
                bn.backward_frozen(&plan, buffers)?;
            }
        }
        Ok(Expected { tensor, residual_gradient, vectors: [first, second] })
    }

    /// The pre-activations, where it matters how near to 0 they are.
    fn pre_activations(&self, operation: Operation) -> Result<Option<Vec<f64>>, Error> {
        if !self.configuration.has_kink() {
            return Ok(None);
        }
        let forward = match operation {
            Operation::Training | Operation::Backward => Operation::Training,
            Operation::Inference | Operation::BackwardFrozen => Operation::Inference,
        };
        let linear = BatchNormDescriptor { channels: self.channels.len() as u32, ..Default::default() };
        Ok(Some(self.refer(forward, &linear)?.tensor))
    }

    /// What the operation must have written.
    fn expect<'a>(&self, operation: Operation, buffers: &'a Buffers) -> Result<Vec<Expectation<'a>>, Error> {
        let descriptor = self.configuration.descriptor(self.channels.len(), Layout::ChannelsFirst);
        let Expected { tensor, residual_gradient, vectors: [first, second] } = self.refer(operation, &descriptor)?;
        let pre_activations = self.pre_activations(operation)?;
        let backward = matches!(operation, Operation::Backward | Operation::BackwardFrozen);
        // Elements whose derivative may be the other one.
        let jumps: Vec<bool> = match &pre_activations {
            Some(t) if backward && self.configuration.source == Source::Recompute => {
                t.iter().map(|t| t.abs() < KINK).collect()
            }
            _ => vec![false; tensor.len()],
        };
        let element = self.configuration.element;
        let near = |value: f64| 2e-5 * (1.0 + value.abs());
        let rounded = |place: usize, value: f64| {
            if jumps[place] { f64::INFINITY } else { near(value) + element.roundoff() * value.abs() }
        };
        let of_tensor = |name, buffer, values: &[f64]| Expectation {
            name,
            buffer,
            stored: Stored::As(element),
            elements: self.tensor_elements(|place| (values[place], rounded(place, values[place]))),
        };
        let mut expectations = vec![of_tensor(if backward { "dx" } else { "y" }, &buffers.output, &tensor)];
        if let (true, Some(buffer), Some(values)) = (backward, &buffers.residual_gradient, &residual_gradient) {
            expectations.push(of_tensor("dz", buffer, values));
        }
        if let (false, Some(buffer), Some(t)) = (backward, &buffers.mask, &pre_activations) {
            let bit = |place: usize| {
                let tolerance = if t[place].abs() < KINK { 1.0 } else { 0.0 };
                (f64::from(u8::from(t[place] > 0.0)), tolerance)
            };
            let elements = self.tensor_elements(bit);
            expectations.push(Expectation { name: "mask", buffer, stored: Stored::Bits, elements });
        }
        // Rounding of a sum of `count` terms, each at most about 2, added in a tree; and terms that may be others.
        let terms = self.problem.count() as f64;
        let sum = |position: usize, value: f64| {
            let jumping = jumps.chunks(self.problem.inner as usize).skip(position).step_by(self.channels.len());
            let jumping = jumping.flatten().filter(|jumps| **jumps).count() as f64;
            near(value) + (2.0 + terms.log2()) * U * 2.0 * terms + 2.0 * jumping
        };
        match operation {
            Operation::Training => {
                let (mean, variance) = (&buffers.running_mean, &buffers.running_variance);
                expectations.push(self.vector("running mean", mean, &first, |_, value| near(value)));
                expectations.push(self.vector("running variance", variance, &second, |_, value| near(value)));
            }
            Operation::Inference => {}
            Operation::Backward | Operation::BackwardFrozen => {
                expectations.push(self.vector("dgamma", &buffers.gamma_gradient, &first, sum));
                expectations.push(self.vector("dbeta", &buffers.beta_gradient, &second, sum));
            }
        }
        Ok(expectations)
    }

    /// Elements spread over every channel, both ends included; `of` gives value and tolerance at a place in the sample.
    fn tensor_elements(&self, of: impl Fn(usize) -> (f64, f64)) -> Vec<(u64, f64, f64)> {
        let Problem { outer, channels, inner } = self.problem;
        let kept = self.channels.len() as u64;
        let mut elements = Vec::new();
        for (position, channel) in self.channels.iter().enumerate() {
            for place in spread((outer * inner) as usize, SAMPLES) {
                let (outer, inner_place) = (place as u64 / inner, place as u64 % inner);
                let (value, tolerance) = of(((outer * kept + position as u64) * inner + inner_place) as usize);
                let index = (outer * u64::from(channels) + *channel as u64) * inner + inner_place;
                elements.push((index, value, tolerance));
            }
        }
        elements
    }

    /// `tolerance` is that of a channel of the sample and its value.
    fn vector<'a>(
        &self,
        name: &'static str,
        buffer: &'a wgpu::Buffer,
        values: &[f64],
        tolerance: impl Fn(usize, f64) -> f64,
    ) -> Expectation<'a> {
        let channels = self.channels.iter().zip(values).enumerate();
        let element = |(position, (channel, value)): (usize, (&usize, &f64))| {
            (*channel as u64, *value, tolerance(position, *value))
        };
        Expectation { name, buffer, stored: Stored::As(Element::F32), elements: channels.map(element).collect() }
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
        Self { gpu, buffers, sample: Sample::new(problem, buffers.configuration, buffers.seed) }
    }

    /// Runs an operation once and compares what it wrote; the message says what is wrong.
    ///
    /// Running statistics start from what they were at first, and outputs from nothing.
    pub fn operation(&self, operation: Operation, bound: &Bound) -> Result<(), String> {
        let Buffers { running_mean, running_variance, frozen_mean, frozen_variance, .. } = self.buffers;
        let Buffers { output, residual_gradient, mask, .. } = self.buffers;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(frozen_mean, 0, running_mean, 0, running_mean.size());
        encoder.copy_buffer_to_buffer(frozen_variance, 0, running_variance, 0, running_variance.size());
        for written in [Some(output), residual_gradient.as_ref(), mask.as_ref()].into_iter().flatten() {
            encoder.clear_buffer(written, 0, None);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.submit(|pass| bound.record(pass));
        let expectations = self.sample.expect(operation, self.buffers).map_err(|error| error.to_string())?;
        expectations.iter().try_for_each(|expectation| self.compare(expectation))
    }

    /// Runs the copy once and compares.
    pub fn copy(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<(), String> {
        self.gpu.submit(record);
        let Buffers { configuration: Configuration { element, .. }, seed, output, .. } = self.buffers;
        // The yardstick copies whole 16-byte units.
        let elements = self.sample.problem.elements() * element.size() / 16 * 16 / element.size();
        let exact = |index: usize| {
            let value = element.round(Given::Input.at(*seed, index as u64));
            (index as u64, f64::from(value), 0.0)
        };
        let elements = spread(elements as usize, CHANNELS * SAMPLES).into_iter().map(exact).collect();
        self.compare(&Expectation { name: "copy", buffer: output, stored: Stored::As(*element), elements })
    }

    fn compare(&self, expectation: &Expectation<'_>) -> Result<(), String> {
        let values = self.gather(expectation);
        for ((index, expected, tolerance), value) in expectation.elements.iter().zip(values) {
            let error = (value - expected).abs();
            // NaN is no small error.
            if error.is_nan() || error > *tolerance {
                return Err(format!("{}[{index}] is {value:e}, must be {expected:e}", expectation.name));
            }
        }
        Ok(())
    }

    /// Reads the words of the elements alone, not the whole tensor.
    fn gather(&self, expectation: &Expectation<'_>) -> Vec<f64> {
        let Expectation { buffer, stored, elements, .. } = expectation;
        let gathered = self.gpu.zeroed("gathered", 4 * elements.len() as u64);
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (place, (index, ..)) in elements.iter().enumerate() {
            encoder.copy_buffer_to_buffer(buffer, 4 * stored.word(*index), &gathered, 4 * place as u64, 4);
        }
        self.gpu.queue.submit([encoder.finish()]);
        let words: Vec<u32> = self.gpu.read(&gathered, elements.len());
        elements.iter().zip(words).map(|((index, ..), word)| stored.decode(*index, word)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Activation;

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
        let element = Element::F16;
        let configuration =
            Configuration { element, activation: Activation::Relu, source: Source::Mask, ..Configuration::default() };
        let sample = Sample::new(problem, configuration, 5);
        assert_eq!(sample.channels, [0, 3, 6, 9]);
        let index = |outer: u64, channel: u64, inner: u64| (outer * 10 + channel) * 3 + inner;
        let stored = |index| f64::from(element.round(Given::Input.at(5, index)));
        // Outer 1, second of the four channels, inner 2.
        let place = (4 + 1) * 3 + 2;
        assert_eq!(sample.input[place], stored(index(1, 3, 2)));
        let mask = sample.mask.as_ref().unwrap();
        assert_eq!((mask.len(), mask[0] >> place & 1 == 1), (1, Given::Mask.at(5, index(1, 3, 2)) > 0.0));
        let elements = sample.tensor_elements(|place| (sample.input[place], 0.0));
        assert_eq!(elements.len(), 4 * 6);
        assert!(elements.iter().all(|(index, value, _)| *value == stored(*index)));
    }
}
