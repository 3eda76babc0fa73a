//! A batch norm problem with data, run on the reference and on a device.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use wgpu_batch_norm::{
    Activation, ActivationSource, ActivationState, BackwardBuffers, BatchNorm, BatchNormDescriptor, ChannelHealth,
    ChannelRenormalization, ChannelStatistics, Convention, ElementType, Error, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, Layout, OneSamplePolicy, Renormalization, RunningStatistics, SegmentRunning, Segmentation,
    SequenceAxes, Shape, Strategies, TrainingBuffers, ValidBuffers, ValidSource, reference, wgpu,
};

use super::Target;
use super::memory::{Held, Memory};

/// What is written into every output before a run, so that an element nobody wrote is seen.
pub const POISON: f32 = f32::from_bits(0x7FC0_BAD1);

/// Pre-activations nearer to 0 than this, might have another sign on a device or
/// round to 0 in the element type.
const NEAR_KINK: f64 = 1e-3;

/// Every activation.
pub const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
];

/// What has statistics of its own.
#[derive(Clone, Copy, Debug, Default)]
pub enum Segments {
    #[default]
    Batch,
    SubBatches(usize),
    Along(usize),
}

/// Where a padded batch has data.
#[derive(Clone, Debug)]
pub enum Padding {
    Lengths(Vec<u32>, SequenceAxes),
    Flags(Vec<bool>),
}

/// What a channel, or one of its segments, is normalised with, in f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    pub count: f64,
    pub mean: f64,
    pub variance: f64,
}

/// Inputs of all operations on one shape.
#[derive(Clone, Debug)]
pub struct Case {
    pub shape: Vec<usize>,
    pub layout: Layout,
    pub convention: Convention,
    pub input: Vec<f32>,
    pub output_gradient: Vec<f32>,
    pub gamma: Option<Vec<f32>>,
    pub beta: Option<Vec<f32>>,
    pub running_mean: Vec<f32>,
    pub running_variance: Vec<f32>,
    /// Whether forward saves its statistics and backward reads them.
    pub saves: bool,
    /// Whether gradients are added to what the buffers hold.
    pub accumulates: bool,
    pub batches_tracked: Option<u32>,
    /// How tensors are stored on the device; those of the case hold values of this type.
    pub element: ElementType,
    pub activation: Activation,
    /// What forward adds before the activation.
    pub residual: Option<Vec<f32>>,
    /// Whether a device is given the input in the place of the residual, which then holds the same.
    pub residual_is_input: bool,
    /// What backward takes the activation's derivative from.
    pub source: ActivationSource,
    pub returns_residual_gradient: bool,
    pub reports_health: bool,
    /// Whether a device trains: where only what goes through frozen statistics is under test, the rest need not be compiled.
    pub trains: bool,
    /// Results take the place of inputs; then gradients do not accumulate.
    pub in_place: bool,
    /// Which of the gradients a device is asked for.
    pub wants_input: bool,
    pub wants_gamma: bool,
    pub wants_beta: bool,
    pub segments: Segments,
    pub padding: Option<Padding>,
    /// r_max and d_max.
    pub renormalization: Option<[f32; 2]>,
}

/// Results of all operations; the gradients once more for frozen statistics.
#[derive(Clone, Debug, Default)]
pub struct Results {
    pub output: Vec<f32>,
    pub running_mean: Vec<f32>,
    pub running_variance: Vec<f32>,
    pub batches_tracked: Option<u32>,
    pub saved: Vec<ChannelStatistics>,
    /// Empty without batch renormalization.
    pub renormalization: Vec<ChannelRenormalization>,
    pub health: Vec<ChannelHealth>,
    pub inference: Vec<f32>,
    /// Empty unless the source is the mask.
    pub mask: Vec<u32>,
    pub inference_mask: Vec<u32>,
    pub input_gradient: Vec<f32>,
    /// Empty unless asked for, as is that of frozen statistics.
    pub residual_gradient: Vec<f32>,
    pub gamma_gradient: Vec<f32>,
    pub beta_gradient: Vec<f32>,
    pub frozen_input_gradient: Vec<f32>,
    pub frozen_residual_gradient: Vec<f32>,
    pub frozen_gamma_gradient: Vec<f32>,
    pub frozen_beta_gradient: Vec<f32>,
}

impl Case {
    /// Normal data with a mean and deviation of its own per channel.
    pub fn random(shape: &[usize], layout: Layout, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let channels = shape[layout.channel_axis(shape.len())];
        let problem = Shape::new(shape).unwrap().problem(layout).unwrap();
        let mut normal = |mean: f32, deviation: f32| {
            let sample: f32 = StandardNormal.sample(&mut rng);
            mean + deviation * sample
        };
        let means: Vec<f32> = (0..channels).map(|_| normal(0.0, 3.0)).collect();
        let deviations: Vec<f32> = (0..channels).map(|_| normal(0.0, 0.5).exp()).collect();
        let channel = |index: usize| (index / problem.inner.max(1) as usize) % channels;
        let elements = problem.elements() as usize;
        Self {
            shape: shape.to_vec(),
            layout,
            convention: Convention::pytorch(),
            input: (0..elements).map(|i| normal(means[channel(i)], deviations[channel(i)])).collect(),
            output_gradient: (0..elements).map(|_| normal(0.1, 1.0)).collect(),
            gamma: Some((0..channels).map(|_| normal(1.0, 0.3)).collect()),
            beta: Some((0..channels).map(|_| normal(0.0, 0.5)).collect()),
            running_mean: (0..channels).map(|_| normal(0.0, 1.0)).collect(),
            running_variance: (0..channels).map(|_| normal(0.0, 0.5).exp()).collect(),
            saves: true,
            accumulates: false,
            batches_tracked: None,
            element: ElementType::F32,
            activation: Activation::Identity,
            residual: None,
            residual_is_input: false,
            source: ActivationSource::Recompute,
            returns_residual_gradient: false,
            reports_health: false,
            trains: true,
            in_place: false,
            wants_input: true,
            wants_gamma: true,
            wants_beta: true,
            segments: Segments::Batch,
            padding: None,
            renormalization: None,
        }
    }

    /// The same case in segments, with running statistics for each if the convention has them apart.
    pub fn segmented(mut self, segments: Segments, running: SegmentRunning) -> Self {
        self.segments = segments;
        self.convention.segment_running = running;
        let count = self.recorded().instances() as usize;
        let repeated = |values: &[f32]| (0..count).map(|i| values[i % values.len()] + 0.01 * i as f32).collect();
        self.running_mean = repeated(&self.running_mean);
        self.running_variance = repeated(&self.running_variance);
        self
    }

    pub fn shape(&self) -> Shape {
        let shape = Shape::new(&self.shape).unwrap();
        match self.segments {
            Segments::Batch => shape,
            Segments::SubBatches(count) => shape.with_sub_batches(count).unwrap(),
            Segments::Along(axis) => shape.with_segments_along(axis).unwrap(),
        }
    }

    /// As training goes over the batch.
    pub fn segmentation(&self) -> Segmentation {
        self.shape().segmentation(self.layout).unwrap()
    }

    /// As everything does that reads running statistics.
    pub fn recorded(&self) -> Segmentation {
        match self.convention.segment_running {
            SegmentRunning::Separate => self.segmentation(),
            _ => Shape::new(&self.shape).unwrap().segmentation(self.layout).unwrap(),
        }
    }

    /// Whether each position is valid; `None` if all are.
    pub fn valid(&self) -> Option<Vec<bool>> {
        match self.padding.as_ref()? {
            Padding::Flags(flags) => Some(flags.clone()),
            Padding::Lengths(lengths, axes) => {
                let bn = reference::BatchNorm::new(&self.descriptor()).unwrap();
                Some(bn.valid_positions(&bn.plan(&self.shape()).unwrap(), lengths, *axes).unwrap())
            }
        }
    }

    /// Whether each element is valid.
    pub fn valid_elements(&self) -> Vec<bool> {
        let problem = Shape::new(&self.shape).unwrap().problem(self.layout).unwrap();
        let (inner, valid) = (problem.inner as usize, self.valid());
        let position = |index: usize| index / (inner * self.channels()) * inner + index % inner;
        (0..self.input.len()).map(|index| valid.as_ref().is_none_or(|valid| valid[position(index)])).collect()
    }

    /// The statistics of every instance, of its valid elements.
    pub fn moments(&self, segmentation: Segmentation) -> Vec<Moments> {
        let mut moments = vec![Moments::default(); segmentation.instances() as usize];
        let valid = self.valid_elements();
        let places = || (0..self.input.len()).filter(|&index| valid[index]);
        let of = |index: usize| segmentation.instance_of(index as u64) as usize;
        for index in places() {
            let record = &mut moments[of(index)];
            record.count += 1.0;
            record.mean += f64::from(self.input[index]);
        }
        moments.iter_mut().for_each(|record| record.mean /= record.count.max(1.0));
        for index in places() {
            let record = &mut moments[of(index)];
            record.variance += (f64::from(self.input[index]) - record.mean).powi(2) / record.count;
        }
        moments
    }

    /// R and D of an instance.
    pub fn correction(&self, instance: usize, moments: &Moments) -> (f64, f64) {
        let Some([scale_limit, shift_limit]) = self.renormalization.map(|limits| limits.map(f64::from)) else {
            return (1.0, 0.0);
        };
        let segmentation = self.segmentation();
        let channel = segmentation.channel_of(instance as u64) as usize;
        let recorded = if self.recorded() == segmentation { instance } else { channel };
        let epsilon = self.convention.epsilon;
        let deviation = (f64::from(self.running_variance[recorded]) + epsilon).sqrt();
        let scale = (moments.variance + epsilon).sqrt() / deviation;
        let shift = (moments.mean - f64::from(self.running_mean[recorded])) / deviation;
        (scale.clamp(1.0 / scale_limit, scale_limit), shift.clamp(-shift_limit, shift_limit))
    }

    /// The same case with tensors of an element type, their values rounded to it.
    pub fn stored_as(mut self, element: ElementType) -> Self {
        self.element = element;
        for tensor in [Some(&mut self.input), Some(&mut self.output_gradient), self.residual.as_mut()] {
            tensor.into_iter().flatten().for_each(|value| *value = rounded(element, *value));
        }
        self
    }

    /// The same case with an activation, and a residual before it or not.
    ///
    /// Where the pre-activation is too near a kink to know on which side of it a device will be, the gradient is 0.
    pub fn fused(mut self, activation: Activation, residual: bool, source: ActivationSource) -> Self {
        let mut rng = StdRng::seed_from_u64(self.input.len() as u64 ^ 0xf5ed);
        let values = (0..self.input.len()).map(|_| {
            let sample: f32 = StandardNormal.sample(&mut rng);
            rounded(self.element, 0.7 * sample)
        });
        self.residual = residual.then(|| values.collect());
        self.activation = activation;
        self.source = source;
        for preactivations in [self.preactivations(false), self.preactivations(true)] {
            for (gradient, t) in self.output_gradient.iter_mut().zip(preactivations) {
                if t.abs() < NEAR_KINK {
                    *gradient = 0.0;
                }
            }
        }
        self
    }

    /// γ·x̂ + β + z, through the statistics of the batch or through frozen ones.
    pub fn preactivations(&self, frozen: bool) -> Vec<f64> {
        let segmentation = if frozen { self.recorded() } else { self.segmentation() };
        let epsilon = self.convention.epsilon;
        let value = |values: &Option<Vec<f32>>, index: usize, otherwise: f64| {
            values.as_ref().map_or(otherwise, |values| f64::from(values[index]))
        };
        // Mean, inverse deviation, scale, shift.
        let of_instance: Vec<_> = if frozen {
            let statistics = self.running_mean.iter().zip(&self.running_variance);
            statistics.map(|(&mean, &variance)| (f64::from(mean), f64::from(variance), 1.0, 0.0)).collect()
        } else {
            let moments = self.moments(segmentation).into_iter().enumerate();
            let corrected = moments.map(|(instance, moments)| (moments, self.correction(instance, &moments)));
            corrected.map(|(moments, (scale, shift))| (moments.mean, moments.variance, scale, shift)).collect()
        };
        (0..self.input.len())
            .map(|index| {
                let (mean, variance, scale, shift) = of_instance[segmentation.instance_of(index as u64) as usize];
                let channel = self.channel(index);
                let normalised = (f64::from(self.input[index]) - mean) / (variance + epsilon).sqrt();
                value(&self.gamma, channel, 1.0) * (normalised * scale + shift)
                    + value(&self.beta, channel, 0.0)
                    + value(&self.residual, index, 0.0)
            })
            .collect()
    }

    /// A case whose optional parts come from the seed too.
    pub fn arbitrary(shape: &[usize], layout: Layout, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let mut case = Self::random(shape, layout, seed);
        if rng.random_bool(0.3) {
            case.gamma = None;
        }
        if rng.random_bool(0.3) {
            case.beta = None;
        }
        case.saves = rng.random_bool(0.7);
        case.accumulates = rng.random_bool(0.4);
        case.batches_tracked = rng.random_bool(0.4).then(|| rng.random_range(0..5));
        case.convention = match rng.random_range(0..4) {
            0 => Convention::onnx(),
            1 => Convention::keras(),
            2 if case.batches_tracked.is_some() => {
                Convention { momentum: wgpu_batch_norm::Momentum::CumulativeAverage, ..Convention::pytorch() }
            }
            _ => Convention::pytorch(),
        };
        case = case.arbitrary_structure(&mut rng);
        let element = ElementType::ALL[rng.random_range(0..3)];
        let activation = ACTIVATIONS[rng.random_range(0..ACTIVATIONS.len())];
        let source = match rng.random_range(0..3) {
            0 if activation.is_piecewise_linear() => ActivationSource::Output,
            1 if activation.is_piecewise_linear() => ActivationSource::Mask,
            _ => ActivationSource::Recompute,
        };
        case = case.stored_as(element).fused(activation, rng.random_bool(0.4), source);
        let known =
            activation == Activation::Identity || case.residual.is_some() || source != ActivationSource::Recompute;
        case.returns_residual_gradient = known && rng.random_bool(0.5);
        case.reports_health = rng.random_bool(0.3);
        case.in_place = rng.random_bool(0.3);
        case.accumulates &= !case.in_place;
        if rng.random_bool(0.4) {
            case.wants_input = rng.random_bool(0.5);
            case.wants_gamma = rng.random_bool(0.5);
            case.wants_beta = rng.random_bool(0.5) || !(case.wants_input || case.wants_gamma);
        }
        case
    }

    /// Segments, padding and renormalization by chance, each of them off more often than not.
    fn arbitrary_structure(mut self, rng: &mut StdRng) -> Self {
        let channel_axis = self.layout.channel_axis(self.shape.len());
        let beside = match self.layout {
            Layout::ChannelsFirst => channel_axis + 1,
            Layout::ChannelsLast => channel_axis - 1,
        };
        let samples = self.shape[0];
        let segments = match rng.random_range(0..8) {
            0 | 1 => {
                let divisors: Vec<_> = (1..=samples).filter(|count| samples.is_multiple_of(*count)).collect();
                Segments::SubBatches(divisors[rng.random_range(0..divisors.len())])
            }
            2 if beside < self.shape.len() => Segments::Along(beside),
            3 => Segments::Along(0),
            _ => Segments::Batch,
        };
        let running =
            [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate][rng.random_range(0..3)];
        self = self.segmented(segments, running);
        let problem = Shape::new(&self.shape).unwrap().problem(self.layout).unwrap();
        let others: Vec<_> = (0..self.shape.len()).filter(|&axis| axis != channel_axis).collect();
        self.padding = match rng.random_range(0..6) {
            0 if others.len() > 1 => {
                let axes = SequenceAxes { sequence: others[0], step: others[1] };
                let steps = self.shape[axes.step] as u32;
                Some(Padding::Lengths(
                    (0..self.shape[axes.sequence]).map(|_| rng.random_range(0..=steps + 1)).collect(),
                    axes,
                ))
            }
            1 => Some(Padding::Flags((0..problem.count()).map(|_| rng.random_bool(0.7)).collect())),
            _ => None,
        };
        if self.segmentation().count() == 1 && self.convention.one_sample == OneSamplePolicy::Error {
            self.convention.one_sample = OneSamplePolicy::SkipRunningUpdate;
        }
        self.renormalization = rng.random_bool(0.2).then(|| [rng.random_range(1.0..3.0), rng.random_range(0.0..3.0)]);
        self
    }

    pub fn channels(&self) -> usize {
        self.shape[self.layout.channel_axis(self.shape.len())]
    }

    pub fn descriptor(&self) -> BatchNormDescriptor {
        BatchNormDescriptor {
            channels: self.channels() as u32,
            layout: self.layout,
            convention: self.convention,
            element: self.element,
            activation: self.activation,
            ..Default::default()
        }
    }

    /// The channel of an element.
    pub fn channel(&self, index: usize) -> usize {
        let problem = Shape::new(&self.shape).unwrap().problem(self.layout).unwrap();
        (index / problem.inner as usize) % self.channels()
    }

    /// Lengths or flags, as a device is given them.
    pub fn valid_source(&self) -> Vec<u32> {
        match &self.padding {
            None => Vec::new(),
            Some(Padding::Lengths(lengths, _)) => lengths.clone(),
            // Anything but 0 is valid.
            Some(Padding::Flags(flags)) => flags.iter().map(|&flag| if flag { 7 } else { 0 }).collect(),
        }
    }

    /// What accumulating gradients start from.
    pub fn gradient_seed(&self, count: usize) -> Vec<f32> {
        if self.accumulates { (0..count).map(|i| (i % 7) as f32 - 3.0).collect() } else { vec![POISON; count] }
    }

    fn residual_seed(&self) -> Vec<f32> {
        if self.returns_residual_gradient { self.gradient_seed(self.input.len()) } else { Vec::new() }
    }

    /// What the mask of inference holds before it is written; there is none of a padded batch.
    fn inference_mask(&self) -> Vec<u32> {
        if self.padding.is_some() { Vec::new() } else { self.mask() }
    }

    /// What a mask holds before it is written.
    fn mask(&self) -> Vec<u32> {
        let written = self.source == ActivationSource::Mask && self.activation.is_piecewise_linear();
        vec![0x5a5a_5a5a; if written { self.input.len().div_ceil(32) } else { 0 }]
    }

    /// Every operation on the reference.
    pub fn run_reference(&self) -> Result<Results, Error> {
        let bn = reference::BatchNorm::new(&self.descriptor())?;
        let plan = bn.plan(&self.shape())?;
        let (elements, channels) = (self.input.len(), self.channels());
        let instances = plan.segmentation().instances() as usize;
        let valid = self.valid();
        let mut results = Results {
            output: vec![POISON; elements],
            running_mean: self.running_mean.clone(),
            running_variance: self.running_variance.clone(),
            batches_tracked: self.batches_tracked,
            saved: vec![ChannelStatistics::default(); instances],
            renormalization: vec![
                ChannelRenormalization::default();
                if self.renormalization.is_some() { instances } else { 0 }
            ],
            inference: vec![POISON; elements],
            health: vec![ChannelHealth::default(); instances],
            mask: self.mask(),
            inference_mask: self.inference_mask(),
            input_gradient: self.gradient_seed(elements),
            residual_gradient: self.residual_seed(),
            frozen_residual_gradient: self.residual_seed(),
            gamma_gradient: self.gradient_seed(channels),
            beta_gradient: self.gradient_seed(channels),
            frozen_input_gradient: self.gradient_seed(elements),
            frozen_gamma_gradient: self.gradient_seed(channels),
            frozen_beta_gradient: self.gradient_seed(channels),
        };
        fn some<T>(values: &mut [T]) -> Option<&mut [T]> {
            (!values.is_empty()).then_some(values)
        }
        fn gradient<'a>(accumulates: bool, values: &'a mut [f32]) -> Option<reference::Gradient<'a, f32>> {
            Some(if accumulates {
                reference::Gradient::Accumulate(values)
            } else {
                reference::Gradient::Overwrite(values)
            })
        }
        let gradient = |values| gradient(self.accumulates, values);
        // The truth does not depend on what the derivative is taken from.
        let state = || reference::ActivationState::Recompute { residual: self.residual.as_deref() };
        bn.training(
            &plan,
            reference::TrainingBuffers {
                input: &self.input,
                output: &mut results.output,
                residual: self.residual.as_deref(),
                activation_mask: some(&mut results.mask),
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                running: Some(reference::RunningStatistics {
                    mean: &mut results.running_mean,
                    variance: &mut results.running_variance,
                    batches_tracked: results.batches_tracked.as_mut(),
                }),
                saved: Some(&mut results.saved),
                valid: valid.as_deref(),
                renormalization: self
                    .renormalization
                    .map(|limits| reference::Renormalization { limits, saved: &mut results.renormalization }),
                health: Some(&mut results.health),
            },
        )?;
        bn.inference(
            &plan,
            reference::InferenceBuffers {
                input: &self.input,
                output: &mut results.inference,
                residual: self.residual.as_deref(),
                activation_mask: some(&mut results.inference_mask),
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                running_mean: &self.running_mean,
                running_variance: &self.running_variance,
                valid: valid.as_deref(),
            },
        )?;
        bn.backward(
            &plan,
            reference::BackwardBuffers {
                input: &self.input,
                output_gradient: &self.output_gradient,
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                activation: state(),
                residual_gradient: some(&mut results.residual_gradient).and_then(gradient),
                // The truth: statistics in f64, not the records rounded to f32.
                saved: None,
                valid: valid.as_deref(),
                renormalization: self.renormalization.map(|_| &results.renormalization[..]),
                input_gradient: gradient(&mut results.input_gradient),
                gamma_gradient: gradient(&mut results.gamma_gradient),
                beta_gradient: gradient(&mut results.beta_gradient),
            },
        )?;
        bn.backward_frozen(
            &plan,
            reference::FrozenBackwardBuffers {
                input: Some(&self.input),
                output_gradient: &self.output_gradient,
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                activation: state(),
                residual_gradient: some(&mut results.frozen_residual_gradient).and_then(gradient),
                running_mean: &self.running_mean,
                running_variance: &self.running_variance,
                valid: valid.as_deref(),
                input_gradient: gradient(&mut results.frozen_input_gradient),
                gamma_gradient: gradient(&mut results.frozen_gamma_gradient),
                beta_gradient: gradient(&mut results.frozen_beta_gradient),
            },
        )?;
        Ok(results)
    }

    /// Every operation on a device, in one submission.
    pub fn run_device(&self, target: &Target) -> Result<Results, Error> {
        self.run_device_with(target, Strategies::default())
    }

    /// The same with strategies of the test's choice.
    pub fn run_device_with(&self, target: &Target, strategies: Strategies) -> Result<Results, Error> {
        let memory = Memory::new(target);
        let bn = BatchNorm::with_kernels(&target.kernels, &self.descriptor())?;
        let plan = bn.plan_with(&self.shape(), strategies)?;
        let (elements, channels) = (self.input.len(), self.channels());
        let tensor = |label, values: &[f32]| memory.upload(label, &stored(self.element, values));
        let vector = |label, values: &[f32]| memory.upload(label, values);
        // What a result takes the place of, or what shows that nobody wrote it.
        let result = |label, replaced: &[f32], otherwise: &[f32]| {
            tensor(label, if self.in_place { replaced } else { otherwise })
        };
        let poison = vec![POISON; elements];
        let input = tensor("input", &self.input);
        let output_gradient = tensor("output_gradient", &self.output_gradient);
        let residual = self.residual.as_deref().map(|values| tensor("residual", values));
        let gamma = self.gamma.as_deref().map(|values| vector("gamma", values));
        let beta = self.beta.as_deref().map(|values| vector("beta", values));
        let running_mean = vector("running_mean", &self.running_mean);
        let running_variance = vector("running_variance", &self.running_variance);
        let updated_mean = vector("updated_mean", &self.running_mean);
        let updated_variance = vector("updated_variance", &self.running_variance);
        let tracked = self.batches_tracked.map(|count| memory.upload("batches_tracked", &[count]));
        let output = result("output", &self.input, &poison);
        let inference = result("inference", &self.input, &poison);
        let (mask, inference_mask) =
            (memory.upload("mask", &self.mask()), memory.upload("mask", &self.inference_mask()));
        let instances = plan.segmentation().instances() as usize;
        let saved = vector("saved", &vec![POISON; 4 * instances]);
        let health = memory.upload("health", &vec![!0_u32; instances]);
        let valid = memory.upload("valid", &vec![POISON; plan.valid_size() as usize / 4]);
        let valid_source = memory.upload("valid_source", &self.valid_source());
        let limits = vector("limits", &self.renormalization.unwrap_or_default());
        let renormalization = vector("renormalization", &vec![POISON; 2 * instances]);
        let workspace = vector("workspace", &vec![POISON; plan.workspace_size() as usize / 4]);
        let seed = self.gradient_seed(elements);
        let [input_gradient, frozen_input_gradient] =
            ["input_gradient", "frozen_input_gradient"].map(|label| result(label, &self.output_gradient, &seed));
        let [residual_gradient, frozen_residual_gradient] =
            ["residual_gradient", "frozen_residual_gradient"].map(|label| tensor(label, &seed));
        let vectors = [(); 4].map(|()| vector("gradient", &self.gradient_seed(channels)));

        let whole = ..plan.tensor_size();
        let (gamma, beta) = (slice(gamma.as_ref(), plan.vector_size()), slice(beta.as_ref(), plan.vector_size()));
        let added = slice(residual.as_ref().filter(|_| !self.residual_is_input), plan.tensor_size());
        let added = if self.residual_is_input { Some(input.slice(whole)) } else { added };
        let mask_size = if self.mask().is_empty() { 0 } else { plan.mask_size() };
        let written = |buffer| slice(Some(buffer).filter(|_| mask_size > 0), mask_size);
        let replaced = |source, result| if self.in_place { result } else { source };
        let marked = match &self.padding {
            None => None,
            Some(padding) => {
                let source = match padding {
                    Padding::Lengths(lengths, axes) => {
                        ValidSource::Lengths { lengths: valid_source.slice(..4 * lengths.len() as u64), axes: *axes }
                    }
                    Padding::Flags(_) => ValidSource::Flags(valid_source.slice(..plan.positions_size())),
                };
                let valid = valid.slice(..plan.valid_size());
                Some((bn.bind_valid(&plan, &ValidBuffers { source, valid })?, valid))
            }
        };
        let valid = marked.as_ref().map(|(_, slice)| *slice);
        let corrections = renormalization.slice(..plan.renormalization_size());
        let buffers = &TrainingBuffers {
            valid,
            renormalization: self
                .renormalization
                .map(|_| Renormalization { limits: limits.slice(..8), saved: corrections }),
            residual: added,
            activation_mask: written(&mask),
            gamma,
            beta,
            running: Some(RunningStatistics {
                mean: updated_mean.slice(..plan.running_size()),
                variance: updated_variance.slice(..plan.running_size()),
                batches_tracked: slice(tracked.as_ref(), 4),
            }),
            saved: self.saves.then(|| saved.slice(..plan.saved_size())),
            health: self.reports_health.then(|| health.slice(..plan.health_size())),
            ..TrainingBuffers::new(replaced(&input, &output).slice(whole), output.slice(whole), workspace.slice(..))
        };
        let training = self.trains.then(|| bn.bind_training(&plan, buffers)).transpose()?;
        let inference_step = bn.bind_inference(
            &plan,
            &InferenceBuffers {
                residual: added,
                valid,
                activation_mask: if valid.is_none() { written(&inference_mask) } else { None },
                gamma,
                beta,
                ..InferenceBuffers::new(
                    replaced(&input, &inference).slice(whole),
                    inference.slice(whole),
                    running_mean.slice(..plan.running_size()),
                    running_variance.slice(..plan.running_size()),
                )
            },
        )?;
        let state = |output, mask, masked: bool| match self.source {
            ActivationSource::Output => ActivationState::Output(Held::slice(output, whole)),
            ActivationSource::Mask if mask_size > 0 && masked => ActivationState::Mask(Held::slice(mask, ..mask_size)),
            // Where there is no mask of a padded batch, the output tells as much.
            ActivationSource::Mask if mask_size > 0 => ActivationState::Output(Held::slice(output, whole)),
            _ => ActivationState::Recompute { residual: added },
        };
        let gradient = |buffer, size| {
            let slice = Held::slice(buffer, ..size);
            Some(if self.accumulates { Gradient::Accumulate(slice) } else { Gradient::Overwrite(slice) })
        };
        let wanted = |wants: bool, buffer, size| if wants { gradient(buffer, size) } else { None };
        let returned =
            |buffer| if self.returns_residual_gradient { gradient(buffer, plan.tensor_size()) } else { None };
        let buffers = &BackwardBuffers {
            gamma,
            beta,
            activation: state(&output, &mask, true),
            valid,
            renormalization: self.renormalization.map(|_| corrections),
            saved: self.saves.then(|| saved.slice(..plan.saved_size())),
            input_gradient: wanted(self.wants_input, &input_gradient, plan.tensor_size()),
            residual_gradient: returned(&residual_gradient),
            gamma_gradient: wanted(self.wants_gamma, &vectors[0], plan.vector_size()),
            beta_gradient: wanted(self.wants_beta, &vectors[1], plan.vector_size()),
            ..BackwardBuffers::new(
                input.slice(whole),
                replaced(&output_gradient, &input_gradient).slice(whole),
                workspace.slice(..),
            )
        };
        let backward = self.trains.then(|| bn.bind_backward(&plan, buffers)).transpose()?;
        let frozen = bn.bind_backward_frozen(
            &plan,
            &FrozenBackwardBuffers {
                input: Some(input.slice(whole)),
                gamma,
                beta,
                activation: state(&inference, &inference_mask, valid.is_none()),
                valid,
                input_gradient: wanted(self.wants_input, &frozen_input_gradient, plan.tensor_size()),
                residual_gradient: returned(&frozen_residual_gradient),
                gamma_gradient: wanted(self.wants_gamma, &vectors[2], plan.vector_size()),
                beta_gradient: wanted(self.wants_beta, &vectors[3], plan.vector_size()),
                ..FrozenBackwardBuffers::new(
                    replaced(&output_gradient, &frozen_input_gradient).slice(whole),
                    running_mean.slice(..plan.running_size()),
                    running_variance.slice(..plan.running_size()),
                    workspace.slice(..),
                )
            },
        )?;
        target.gpu.submit(|pass| {
            if let Some((marking, _)) = &marked {
                marking.record(pass);
            }
            if let Some(training) = &training {
                training.record(pass);
            }
            inference_step.record(pass);
            if let Some(backward) = &backward {
                backward.record(pass);
            }
            frozen.record(pass);
        });
        memory.assert_gaps_are_untouched();
        let read =
            |buffer| loaded(self.element, &memory.read::<u32>(buffer, plan.tensor_size() as usize / 4), elements);
        let read_returned = |buffer| if self.returns_residual_gradient { read(buffer) } else { Vec::new() };
        Ok(Results {
            output: read(&output),
            running_mean: memory.read(&updated_mean, self.running_mean.len()),
            running_variance: memory.read(&updated_variance, self.running_mean.len()),
            batches_tracked: tracked.map(|buffer| memory.read(&buffer, 1)[0]),
            saved: if self.saves { memory.read(&saved, instances) } else { Vec::new() },
            health: if self.reports_health { memory.read(&health, instances) } else { Vec::new() },
            inference: read(&inference),
            mask: memory.read(&mask, mask_size as usize / 4),
            inference_mask: memory.read(&inference_mask, self.inference_mask().len()),
            renormalization: match self.renormalization {
                Some(_) => memory.read(&renormalization, instances),
                None => Vec::new(),
            },
            input_gradient: read(&input_gradient),
            residual_gradient: read_returned(&residual_gradient),
            gamma_gradient: memory.read(&vectors[0], channels),
            beta_gradient: memory.read(&vectors[1], channels),
            frozen_input_gradient: read(&frozen_input_gradient),
            frozen_residual_gradient: read_returned(&frozen_residual_gradient),
            frozen_gamma_gradient: memory.read(&vectors[2], channels),
            frozen_beta_gradient: memory.read(&vectors[3], channels),
        })
    }
}

fn slice(held: Option<&Held>, size: u64) -> Option<wgpu::BufferSlice<'_>> {
    held.map(|held| held.slice(..size))
}

/// The nearest value of an element type.
pub fn rounded(element: ElementType, value: f32) -> f32 {
    match element {
        ElementType::F16 => half::f16::from_f32(value).to_f32(),
        ElementType::Bf16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// The words of a tensor, with 0 past an odd number of 16-bit elements.
pub fn stored(element: ElementType, values: &[f32]) -> Vec<u32> {
    let bits = |value: f32| match element {
        ElementType::F16 => half::f16::from_f32(value).to_bits(),
        _ => half::bf16::from_f32(value).to_bits(),
    };
    match element {
        ElementType::F32 => values.iter().map(|value| value.to_bits()).collect(),
        _ => values
            .chunks(2)
            .map(|pair| u32::from(bits(pair[0])) | pair.get(1).map_or(0, |&second| u32::from(bits(second)) << 16))
            .collect(),
    }
}

/// The values of a tensor's words.
pub fn loaded(element: ElementType, words: &[u32], count: usize) -> Vec<f32> {
    let value = |bits: u16| match element {
        ElementType::F16 => half::f16::from_bits(bits).to_f32(),
        _ => half::bf16::from_bits(bits).to_f32(),
    };
    match element {
        ElementType::F32 => words.iter().map(|&word| f32::from_bits(word)).collect(),
        _ => {
            let halves = words.iter().flat_map(|&word| [value(word as u16), value((word >> 16) as u16)]);
            halves.take(count).collect()
        }
    }
}
