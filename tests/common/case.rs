//! A batch norm problem with data, run on the reference and on a device.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, ChannelStatistics, Convention, Error, FrozenBackwardBuffers,
    Gradient, InferenceBuffers, Layout, RunningStatistics, Shape, Strategies, TrainingBuffers, reference,
};

use super::Target;

/// What is written into every output before a run, so that an element nobody wrote is seen.
pub const POISON: f32 = f32::from_bits(0x7FC0_BAD1);

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
}

/// Results of all operations; the gradients once more for frozen statistics.
#[derive(Clone, Debug, Default)]
pub struct Results {
    pub output: Vec<f32>,
    pub running_mean: Vec<f32>,
    pub running_variance: Vec<f32>,
    pub batches_tracked: Option<u32>,
    pub saved: Vec<ChannelStatistics>,
    pub inference: Vec<f32>,
    pub input_gradient: Vec<f32>,
    pub gamma_gradient: Vec<f32>,
    pub beta_gradient: Vec<f32>,
    pub frozen_input_gradient: Vec<f32>,
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
        }
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
        case
    }

    pub fn channels(&self) -> usize {
        self.shape[self.layout.channel_axis(self.shape.len())]
    }

    pub fn descriptor(&self) -> BatchNormDescriptor {
        BatchNormDescriptor {
            channels: self.channels() as u32,
            layout: self.layout,
            convention: self.convention,
            ..Default::default()
        }
    }

    /// The channel of an element.
    pub fn channel(&self, index: usize) -> usize {
        let problem = Shape::new(&self.shape).unwrap().problem(self.layout).unwrap();
        (index / problem.inner as usize) % self.channels()
    }

    /// What accumulating gradients start from.
    fn gradient_seed(&self, count: usize) -> Vec<f32> {
        if self.accumulates { (0..count).map(|i| (i % 7) as f32 - 3.0).collect() } else { vec![POISON; count] }
    }

    /// Every operation on the reference.
    pub fn run_reference(&self) -> Result<Results, Error> {
        let bn = reference::BatchNorm::new(&self.descriptor())?;
        let plan = bn.plan(&Shape::new(&self.shape)?)?;
        let (elements, channels) = (self.input.len(), self.channels());
        let mut results = Results {
            output: vec![POISON; elements],
            running_mean: self.running_mean.clone(),
            running_variance: self.running_variance.clone(),
            batches_tracked: self.batches_tracked,
            saved: vec![ChannelStatistics::default(); channels],
            inference: vec![POISON; elements],
            input_gradient: self.gradient_seed(elements),
            gamma_gradient: self.gradient_seed(channels),
            beta_gradient: self.gradient_seed(channels),
            frozen_input_gradient: self.gradient_seed(elements),
            frozen_gamma_gradient: self.gradient_seed(channels),
            frozen_beta_gradient: self.gradient_seed(channels),
        };
        let gradient = |values| {
            Some(if self.accumulates {
                reference::Gradient::Accumulate(values)
            } else {
                reference::Gradient::Overwrite(values)
            })
        };
        bn.training(
            &plan,
            reference::TrainingBuffers {
                input: &self.input,
                output: &mut results.output,
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                running: Some(reference::RunningStatistics {
                    mean: &mut results.running_mean,
                    variance: &mut results.running_variance,
                    batches_tracked: results.batches_tracked.as_mut(),
                }),
                saved: Some(&mut results.saved),
            },
        )?;
        bn.inference(
            &plan,
            reference::InferenceBuffers {
                input: &self.input,
                output: &mut results.inference,
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                running_mean: &self.running_mean,
                running_variance: &self.running_variance,
            },
        )?;
        bn.backward(
            &plan,
            reference::BackwardBuffers {
                input: &self.input,
                output_gradient: &self.output_gradient,
                gamma: self.gamma.as_deref(),
                // The truth: statistics in f64, not the records rounded to f32.
                saved: None,
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
                running_mean: &self.running_mean,
                running_variance: &self.running_variance,
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
        let gpu = &target.gpu;
        let bn = BatchNorm::with_kernels(&target.kernels, &self.descriptor())?;
        let plan = bn.plan_with(&Shape::new(&self.shape)?, strategies)?;
        let (elements, channels) = (self.input.len(), self.channels());
        let tensor = |label, values: &[f32]| gpu.upload(label, values);
        let input = tensor("input", &self.input);
        let output_gradient = tensor("output_gradient", &self.output_gradient);
        let gamma = self.gamma.as_deref().map(|values| tensor("gamma", values));
        let beta = self.beta.as_deref().map(|values| tensor("beta", values));
        let running_mean = tensor("running_mean", &self.running_mean);
        let running_variance = tensor("running_variance", &self.running_variance);
        let updated_mean = tensor("updated_mean", &self.running_mean);
        let updated_variance = tensor("updated_variance", &self.running_variance);
        let tracked = self.batches_tracked.map(|count| gpu.upload("batches_tracked", &[count]));
        let output = tensor("output", &vec![POISON; elements]);
        let inference = tensor("inference", &vec![POISON; elements]);
        let saved = tensor("saved", &vec![POISON; 4 * channels]);
        let workspace = tensor("workspace", &vec![POISON; plan.workspace_size() as usize / 4]);
        let gradients: Vec<_> = [elements, channels, channels, elements, channels, channels]
            .into_iter()
            .map(|count| (tensor("gradient", &self.gradient_seed(count)), count))
            .collect();

        let whole = ..plan.tensor_size();
        let vector = ..plan.vector_size();
        let gradient = |index: usize| {
            let (buffer, count) = &gradients[index];
            let slice = buffer.slice(..4 * *count as u64);
            Some(if self.accumulates { Gradient::Accumulate(slice) } else { Gradient::Overwrite(slice) })
        };
        let training = bn.bind_training(
            &plan,
            &TrainingBuffers {
                input: input.slice(whole),
                output: output.slice(whole),
                gamma: gamma.as_ref().map(|buffer| buffer.slice(vector)),
                beta: beta.as_ref().map(|buffer| buffer.slice(vector)),
                running: Some(RunningStatistics {
                    mean: updated_mean.slice(vector),
                    variance: updated_variance.slice(vector),
                    batches_tracked: tracked.as_ref().map(|buffer| buffer.slice(..4)),
                }),
                saved: self.saves.then(|| saved.slice(..plan.saved_size())),
                workspace: workspace.slice(..),
            },
        )?;
        let inference_step = bn.bind_inference(
            &plan,
            &InferenceBuffers {
                input: input.slice(whole),
                output: inference.slice(whole),
                gamma: gamma.as_ref().map(|buffer| buffer.slice(vector)),
                beta: beta.as_ref().map(|buffer| buffer.slice(vector)),
                running_mean: running_mean.slice(vector),
                running_variance: running_variance.slice(vector),
            },
        )?;
        let backward = bn.bind_backward(
            &plan,
            &BackwardBuffers {
                input: input.slice(whole),
                output_gradient: output_gradient.slice(whole),
                gamma: gamma.as_ref().map(|buffer| buffer.slice(vector)),
                saved: self.saves.then(|| saved.slice(..plan.saved_size())),
                input_gradient: gradient(0),
                gamma_gradient: gradient(1),
                beta_gradient: gradient(2),
                workspace: workspace.slice(..),
            },
        )?;
        let frozen = bn.bind_backward_frozen(
            &plan,
            &FrozenBackwardBuffers {
                input: Some(input.slice(whole)),
                output_gradient: output_gradient.slice(whole),
                gamma: gamma.as_ref().map(|buffer| buffer.slice(vector)),
                running_mean: running_mean.slice(vector),
                running_variance: running_variance.slice(vector),
                input_gradient: gradient(3),
                gamma_gradient: gradient(4),
                beta_gradient: gradient(5),
                workspace: workspace.slice(..),
            },
        )?;
        gpu.submit(|pass| {
            training.record(pass);
            inference_step.record(pass);
            backward.record(pass);
            frozen.record(pass);
        });
        let read_gradient = |index: usize| gpu.read(&gradients[index].0, gradients[index].1);
        Ok(Results {
            output: gpu.read(&output, elements),
            running_mean: gpu.read(&updated_mean, channels),
            running_variance: gpu.read(&updated_variance, channels),
            batches_tracked: tracked.map(|buffer| gpu.read(&buffer, 1)[0]),
            saved: if self.saves { gpu.read(&saved, channels) } else { Vec::new() },
            inference: gpu.read(&inference, elements),
            input_gradient: read_gradient(0),
            gamma_gradient: read_gradient(1),
            beta_gradient: read_gradient(2),
            frozen_input_gradient: read_gradient(3),
            frozen_gamma_gradient: read_gradient(4),
            frozen_beta_gradient: read_gradient(5),
        })
    }
}
