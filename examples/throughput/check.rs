//! Compares samples of what an operation wrote with the CPU reference, so that no wrong result is ever timed.
//!
//! A channel's results depend on that channel alone, so a few whole channels are cut out of the tensor and given to the
//! reference as a small problem.

use wgpu_batch_norm::{
    Activation, BatchNormDescriptor, ChannelRenormalization, Error, Layout, Plan, Problem, Shape, reference,
};

use crate::buffers::{Buffers, Given, LIMITS, Padding, Parameter, is_valid};
use crate::configuration::{Configuration, Source};
use crate::element::Element;
use crate::operations::Operation;
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
    Words,
}

impl Stored {
    /// The word that holds a value.
    const fn word(self, index: u64) -> u64 {
        match self {
            Self::As(element) => index * element.size() / 4,
            Self::Bits => index / 32,
            Self::Words => index,
        }
    }

    fn decode(self, index: u64, word: u32) -> f64 {
        match self {
            Self::As(element) => f64::from(element.decode(index, word)),
            Self::Bits => f64::from(word >> (index % 32) & 1),
            Self::Words => f64::from(word),
        }
    }
}

/// Whole channels cut out of the tensor, as it is stored, in f64: what the reference makes of them is not rounded.
struct Sample {
    problem: Problem,
    segments: u64,
    configuration: Configuration,
    channels: Vec<usize>,
    input: Vec<f64>,
    output_gradient: Vec<f64>,
    residual: Option<Vec<f64>>,
    /// What the backwards are given as y.
    output: Option<Vec<f64>>,
    /// What the backwards are given as mask.
    mask: Option<Vec<u32>>,
    /// Which positions are no padding, the same in all channels.
    valid: Option<Vec<bool>>,
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
    fn new(problem: Problem, segments: u64, configuration: Configuration, seed: u32) -> Self {
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
            segments,
            configuration,
            input: tensor(Given::Input),
            output_gradient: tensor(Given::OutputGradient),
            residual: configuration.residual.then(|| tensor(Given::Residual)),
            output: (configuration.derivative() == Some(Source::Output)).then(|| tensor(Given::Output)),
            mask: (configuration.derivative() == Some(Source::Mask)).then(mask),
            valid: configuration
                .padded
                .then(|| (0..problem.count()).map(|position| is_valid(seed, position)).collect()),
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
        // Samples stand one after the other in either layout, so that segments are equal parts of what is cut out too.
        let shape = Shape::flat(self.problem.outer as usize, count, self.problem.inner as usize);
        let plan = bn.plan(&shape.with_sub_batches(self.segments as usize)?)?;
        let mut corrections = vec![ChannelRenormalization::default(); plan.segmentation().instances() as usize];
        let valid = self.valid.as_deref();
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
                    valid,
                    running: Some(running),
                    renormalization: self.renormalization(&mut corrections),
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
                    valid,
                    running_mean: &self.mean,
                    running_variance: &self.variance,
                    ..Default::default()
                };
                bn.inference(&plan, buffers)?;
            }
            Operation::Backward => {
                if self.configuration.renormalized {
                    self.correct(&bn, &plan, &mut corrections)?;
                }
                let buffers = reference::BackwardBuffers {
                    input: &self.input,
                    output_gradient: &self.output_gradient,
                    gamma,
                    beta,
                    valid,
                    renormalization: self.configuration.renormalized.then_some(corrections.as_slice()),
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
                    valid,
                    activation,
                    input_gradient: Some(overwrite(&mut tensor)),
                    gamma_gradient: Some(reference::Gradient::Overwrite(&mut first)),
                    beta_gradient: Some(reference::Gradient::Overwrite(&mut second)),
                    residual_gradient: residual_gradient.as_deref_mut().map(overwrite),
                };
                bn.backward_frozen(&plan, buffers)?;
            }
            // Its result is no tensor, see `expect_marks`.
            Operation::Mark => {}
        }
        Ok(Expected { tensor, residual_gradient, vectors: [first, second] })
    }

    fn renormalization<'a>(&self, saved: &'a mut [ChannelRenormalization]) -> Option<reference::Renormalization<'a>> {
        self.configuration.renormalized.then_some(reference::Renormalization { limits: LIMITS, saved })
    }

    /// What forward saves of renormalization for backward.
    fn correct(
        &self,
        bn: &reference::BatchNorm,
        plan: &reference::Plan,
        saved: &mut [ChannelRenormalization],
    ) -> Result<(), Error> {
        let [mut mean, mut variance] = [self.mean.clone(), self.variance.clone()];
        let running = reference::RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None };
        let buffers = reference::TrainingBuffers {
            input: &self.input,
            output: &mut vec![0.0; self.input.len()],
            valid: self.valid.as_deref(),
            running: Some(running),
            renormalization: self.renormalization(saved),
            ..Default::default()
        };
        bn.training(plan, buffers)
    }

    /// Whether a place in the sample is no padding.
    fn is_valid(&self, place: usize) -> bool {
        let (inner, row) = (self.problem.inner as usize, self.channels.len() * self.problem.inner as usize);
        self.valid.as_ref().is_none_or(|valid| valid[place / row * inner + place % inner])
    }

    /// The pre-activations, where it matters how near to 0 they are; at padding there is none.
    fn pre_activations(&self, operation: Operation) -> Result<Option<Vec<f64>>, Error> {
        if !self.configuration.has_kink() {
            return Ok(None);
        }
        let forward = match operation {
            Operation::Training | Operation::Backward => Operation::Training,
            Operation::Inference | Operation::BackwardFrozen => Operation::Inference,
            Operation::Mark => return Ok(None),
        };
        let descriptor = self.configuration.descriptor(self.channels.len(), Layout::ChannelsFirst);
        let linear = BatchNormDescriptor { activation: Activation::Identity, ..descriptor };
        Ok(Some(self.refer(forward, &linear)?.tensor))
    }

    /// What the operation must have written.
    fn expect<'a>(&self, operation: Operation, buffers: &'a Buffers) -> Result<Vec<Expectation<'a>>, Error> {
        if operation == Operation::Mark {
            return Ok(buffers.padding.iter().flat_map(|padding| self.expect_marks(padding)).collect());
        }
        let descriptor = self.configuration.descriptor(self.channels.len(), Layout::ChannelsFirst);
        let Expected { tensor, residual_gradient, vectors: [first, second] } = self.refer(operation, &descriptor)?;
        let pre_activations = self.pre_activations(operation)?;
        let backward = matches!(operation, Operation::Backward | Operation::BackwardFrozen);
        // Elements whose derivative may be the other one.
        let jumps: Vec<bool> = match &pre_activations {
            Some(t) if backward && self.configuration.source == Source::Recompute => {
                t.iter().enumerate().map(|(place, t)| t.abs() < KINK && self.is_valid(place)).collect()
            }
            _ => vec![false; tensor.len()],
        };
        let element = self.configuration.element;
        let near = |value: f64| 2e-5 * (1.0 + value.abs());
        let rounded = |place: usize, value: f64| {
            match (jumps[place], self.is_valid(place)) {
                (true, _) => f64::INFINITY,
                (false, true) => near(value) + element.roundoff() * value.abs(),
                // 0, whatever stands there in x and dy.
                (false, false) => 0.0,
            }
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
                let tolerance = if t[place].abs() < KINK && self.is_valid(place) { 1.0 } else { 0.0 };
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
            Operation::Inference | Operation::Mark => {}
            Operation::Backward | Operation::BackwardFrozen => {
                expectations.push(self.vector("dgamma", &buffers.gamma_gradient, &first, sum));
                expectations.push(self.vector("dbeta", &buffers.beta_gradient, &second, sum));
            }
        }
        Ok(expectations)
    }

    /// What marking must have written: a record for each segment, one more for the whole batch where there are several,
    /// then the bits.
    fn expect_marks<'a>(&self, padding: &'a Padding) -> [Expectation<'a>; 2] {
        let (segments, count) = (self.segments, self.problem.count());
        let records = if segments > 1 { segments + 1 } else { 1 };
        let valid = self.valid.as_deref().unwrap_or_default();
        let record = |record: usize| {
            let record = record as u64;
            let positions = if record == segments {
                0..count
            } else {
                record * (count / segments)..(record + 1) * (count / segments)
            };
            let part = &valid[positions.start as usize..positions.end as usize];
            let half = part.len() / 2;
            let found = |place: Option<usize>, none: u32| place.map_or(f64::from(none), |place| place as f64);
            let words = [
                part.iter().filter(|valid| **valid).count() as f64,
                found(part.iter().position(|valid| *valid), u32::MAX),
                found(part.iter().rposition(|valid| *valid), 0),
                found(part[half..].iter().position(|valid| *valid).map(|place| half + place), u32::MAX),
            ];
            (0..).zip(words).map(move |(word, value)| (4 * record + word, value, 0.0))
        };
        let buffer = &padding.valid;
        let counts = spread(records as usize, SAMPLES).into_iter().flat_map(record).collect();
        let bit = |place| (f64::from(u8::from(self.is_valid(place))), 0.0);
        let bits = self.tensor_elements(bit).into_iter();
        let bits = bits.map(|(index, value, tolerance)| (128 * records + index, value, tolerance)).collect();
        [
            Expectation { name: "valid elements", buffer, stored: Stored::Words, elements: counts },
            Expectation { name: "valid", buffer, stored: Stored::Bits, elements: bits },
        ]
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
    pub fn new(gpu: &'a Gpu, plan: &Plan, buffers: &'a Buffers) -> Self {
        let segments = plan.segmentation().segments();
        Self { gpu, buffers, sample: Sample::new(plan.problem(), segments, buffers.configuration, buffers.seed) }
    }

    /// Runs an operation once and compares what it wrote; the message says what is wrong.
    ///
    /// Running statistics start from what they were at first, and outputs from nothing.
    pub fn operation(
        &self,
        operation: Operation,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<(), String> {
        let Buffers { running_mean, running_variance, frozen_mean, frozen_variance, .. } = self.buffers;
        let Buffers { output, residual_gradient, mask, gamma_gradient, beta_gradient, .. } = self.buffers;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(frozen_mean, 0, running_mean, 0, running_mean.size());
        encoder.copy_buffer_to_buffer(frozen_variance, 0, running_variance, 0, running_variance.size());
        // The other operations read what marking wrote.
        let marks =
            self.buffers.padding.as_ref().filter(|_| operation == Operation::Mark).map(|padding| &padding.valid);
        let gradients = [Some(gamma_gradient), Some(beta_gradient), residual_gradient.as_ref()];
        for written in [Some(output), mask.as_ref(), marks].into_iter().chain(gradients).flatten() {
            encoder.clear_buffer(written, 0, None);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.submit(record);
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
        let sample = Sample::new(problem, 1, configuration, 5);
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

    #[test]
    fn padding_of_a_sample_is_that_of_its_positions() {
        let problem = Problem { outer: 6, channels: 10, inner: 3 };
        let configuration = Configuration { padded: true, ..Configuration::default() };
        let sample = Sample::new(problem, 2, configuration, 5);
        for outer in 0..6 {
            for (channel, inner) in [(0, 0), (1, 2), (3, 1)] {
                let position = (outer * 3 + inner) as u64;
                assert_eq!(sample.is_valid((outer * 4 + channel) * 3 + inner), is_valid(5, position));
            }
        }
        let expected = sample.refer(Operation::Training, &configuration.descriptor(4, Layout::ChannelsFirst)).unwrap();
        assert!(expected.tensor.iter().enumerate().all(|(place, y)| sample.is_valid(place) || *y == 0.0));
    }
}
