//! The operations: what they are called, what bytes they must and do move, their buffers and how they are bound.

use clap::ValueEnum;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, Error, Family, FrozenBackwardBuffers, Gradient, InferenceBuffers, Operation as Planned,
    Plan, RunningStatistics, Shape, Step, Strategies, Strategy, TrainingBuffers, TrainingStep,
};

use crate::support::Gpu;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Training forward, with running and saved statistics
    Training,
    /// Inference from running statistics
    Inference,
    /// Backward through training statistics, all gradients, from saved statistics
    Backward,
    /// Backward through frozen statistics, all gradients
    #[value(name = "backward_frozen")]
    BackwardFrozen,
}

impl Operation {
    pub const ALL: [Self; 4] = [Self::Training, Self::Inference, Self::Backward, Self::BackwardFrozen];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Inference => "inference",
            Self::Backward => "backward",
            Self::BackwardFrozen => "backward_frozen",
        }
    }

    /// How many sums and copies of a tensor read and write the same bytes.
    const fn limit_counts(self) -> (u32, u32) {
        match self {
            Self::Training => (1, 1),
            Self::Inference => (0, 1),
            Self::Backward => (3, 1),
            Self::BackwardFrozen => (2, 1),
        }
    }

    /// The time that sums and copies of the tensor would take in place of the operation.
    pub fn limit(self, copy: f64, sum: f64) -> f64 {
        let (sums, copies) = self.limit_counts();
        f64::from(sums) * sum + f64::from(copies) * copy
    }

    /// The limit in words.
    pub fn limit_formula(self) -> String {
        match self.limit_counts() {
            (0, _) => "copy".into(),
            (1, _) => "sum + copy".into(),
            (sums, _) => format!("{sums} sums + copy"),
        }
    }

    /// Bytes if every input were read once and every output written once, vectors included, the workspace not.
    pub fn ideal_bytes(self, plan: &Plan) -> u64 {
        self.ideal_tensors() * plan.tensor_size() + self.small_bytes(plan)
    }

    const fn ideal_tensors(self) -> u64 {
        match self {
            Self::Inference | Self::Training => 2,
            Self::Backward | Self::BackwardFrozen => 3,
        }
    }

    /// Bytes that the plan's strategy reads and writes: split kernels read their tensors once to reduce them and once
    /// more to apply what came out. The workspace is not counted.
    pub fn moved_bytes(self, plan: &Plan) -> u64 {
        let (sums, copies) = self.limit_counts();
        let resident =
            self.planned().is_some_and(|operation| matches!(plan.strategy(operation), Some(Strategy::Resident(_))));
        let tensors = if resident { self.ideal_tensors() } else { u64::from(sums + 2 * copies) };
        tensors * plan.tensor_size() + self.small_bytes(plan)
    }

    /// Bytes of vectors and saved statistics, each read and each write once.
    const fn small_bytes(self, plan: &Plan) -> u64 {
        match self {
            // gamma, beta, the running statistics twice
            Self::Training => 6 * plan.vector_size() + plan.saved_size(),
            // gamma, beta, mean, variance
            Self::Inference => 4 * plan.vector_size(),
            // gamma, dgamma, dbeta
            Self::Backward => 3 * plan.vector_size() + plan.saved_size(),
            // gamma, mean, variance, dgamma, dbeta
            Self::BackwardFrozen => 5 * plan.vector_size(),
        }
    }

    /// The strategy that the plan chose.
    pub fn strategy(self, plan: &Plan) -> String {
        match self.planned() {
            Some(operation) => plan.strategy(operation).map_or_else(|| "none".into(), |strategy| strategy.to_string()),
            None => plan.inference_family().map_or_else(|| "none".into(), |family| family.to_string()),
        }
    }

    /// A pin for every strategy that serves the shape, the planner's choice first.
    pub fn strategies(self, bn: &BatchNorm, shape: &Shape) -> Result<Vec<Strategies>, Error> {
        let Some(operation) = self.planned() else {
            let chosen = bn.plan(shape)?.inference_family();
            let other = [Family::Rows, Family::Columns].into_iter().find(|family| Some(*family) != chosen);
            return Ok([chosen, other].map(|inference| Strategies { inference, ..Strategies::default() }).to_vec());
        };
        let strategies = Plan::strategies(bn.descriptor(), shape, bn.kernels().profile(), operation)?;
        let pin = |strategy| match self {
            Self::Training => Strategies { training: Some(strategy), ..Strategies::default() },
            _ => Strategies { backward: Some(strategy), ..Strategies::default() },
        };
        Ok(strategies.into_iter().map(pin).collect())
    }

    /// What the planner calls the operation; `None` where there is nothing to reduce.
    const fn planned(self) -> Option<Planned> {
        match self {
            Self::Training => Some(Planned::Training),
            Self::Inference => None,
            Self::Backward => Some(Planned::Backward),
            Self::BackwardFrozen => Some(Planned::FrozenBackward),
        }
    }

    /// Binds the operation to a set of buffers.
    pub fn bind(self, bn: &BatchNorm, plan: &Plan, buffers: &Buffers) -> Result<Bound, Error> {
        let (tensor_size, vector_size) = (plan.tensor_size(), plan.vector_size());
        let tensor = move |buffer| wgpu::Buffer::slice(buffer, ..tensor_size);
        let vector = move |buffer| wgpu::Buffer::slice(buffer, ..vector_size);
        let (input, output) = (tensor(&buffers.input), tensor(&buffers.output));
        let output_gradient = tensor(&buffers.output_gradient);
        let (gamma, beta) = (Some(vector(&buffers.gamma)), Some(vector(&buffers.beta)));
        let (mean, variance) = (vector(&buffers.frozen_mean), vector(&buffers.frozen_variance));
        let gamma_gradient = Some(Gradient::Overwrite(vector(&buffers.gamma_gradient)));
        let beta_gradient = Some(Gradient::Overwrite(vector(&buffers.beta_gradient)));
        let saved = Some(buffers.saved.slice(..plan.saved_size()));
        let workspace = buffers.workspace.slice(..);
        match self {
            Self::Training => {
                let running = RunningStatistics {
                    mean: vector(&buffers.running_mean),
                    variance: vector(&buffers.running_variance),
                    batches_tracked: None,
                };
                let running = Some(running);
                bn.bind_training(plan, &TrainingBuffers { input, output, gamma, beta, running, saved, workspace })
                    .map(Bound::Training)
            }
            Self::Inference => bn
                .bind_inference(
                    plan,
                    &InferenceBuffers { input, output, gamma, beta, running_mean: mean, running_variance: variance },
                )
                .map(Bound::Other),
            Self::Backward => bn
                .bind_backward(
                    plan,
                    &BackwardBuffers {
                        input,
                        output_gradient,
                        gamma,
                        saved,
                        input_gradient: Some(Gradient::Overwrite(output)),
                        gamma_gradient,
                        beta_gradient,
                        workspace,
                    },
                )
                .map(Bound::Other),
            Self::BackwardFrozen => bn
                .bind_backward_frozen(
                    plan,
                    &FrozenBackwardBuffers {
                        input: Some(input),
                        output_gradient,
                        gamma,
                        running_mean: mean,
                        running_variance: variance,
                        input_gradient: Some(Gradient::Overwrite(output)),
                        gamma_gradient,
                        beta_gradient,
                        workspace,
                    },
                )
                .map(Bound::Other),
        }
    }
}

/// An operation bound to a set of buffers.
pub enum Bound {
    Training(TrainingStep),
    Other(Step),
}

impl Bound {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Training(step) => step.record(pass),
            Self::Other(step) => step.record(pass),
        }
    }

    pub const fn dispatch_count(&self) -> usize {
        match self {
            Self::Training(step) => step.dispatch_count(),
            Self::Other(step) => step.dispatch_count(),
        }
    }
}

/// A vector of parameters or statistics that the operations start from.
#[derive(Clone, Copy)]
pub enum Parameter {
    Gamma,
    Beta,
    Mean,
    Variance,
}

impl Parameter {
    /// Its value in a channel.
    pub fn of(self, channel: usize) -> f32 {
        let noise = noise(u32::MAX - self as u32, channel as u64);
        match self {
            Self::Gamma => 1.0 + 0.25 * noise,
            Self::Beta => noise,
            Self::Mean => 0.25 * noise,
            Self::Variance => 0.75 + 0.25 * noise,
        }
    }

    fn upload(self, gpu: &Gpu, channels: usize) -> wgpu::Buffer {
        gpu.upload("vector", &(0..channels).map(|channel| self.of(channel)).collect::<Vec<f32>>())
    }
}

/// Noise in [−1, 1), the same for the same seed and index; not zeros, on which some devices are quicker.
pub fn noise(seed: u32, index: u64) -> f32 {
    let mut bits = (index as u32) ^ seed.wrapping_mul(0x9e37_79b9);
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    ((bits ^ (bits >> 16)) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Everything that the operations on one shape read and write.
pub struct Buffers {
    pub seed: u32,
    pub input: wgpu::Buffer,
    pub output_gradient: wgpu::Buffer,
    /// y or dx, of whichever operation ran last.
    pub output: wgpu::Buffer,
    pub gamma: wgpu::Buffer,
    pub beta: wgpu::Buffer,
    /// Updated by training.
    pub running_mean: wgpu::Buffer,
    pub running_variance: wgpu::Buffer,
    /// Never written.
    pub frozen_mean: wgpu::Buffer,
    pub frozen_variance: wgpu::Buffer,
    pub gamma_gradient: wgpu::Buffer,
    pub beta_gradient: wgpu::Buffer,
    pub saved: wgpu::Buffer,
    pub workspace: wgpu::Buffer,
}

impl Buffers {
    /// Fills a set with noise; what wgpu has against it comes back as text.
    pub fn new(gpu: &Gpu, plan: &Plan, workspace: u64, seed: u32) -> Result<Self, String> {
        let validation = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let elements = plan.problem().elements();
        let channels = plan.problem().channels as usize;
        let tensor = |label, seed| gpu.upload(label, &(0..elements).map(|i| noise(seed, i)).collect::<Vec<f32>>());
        let buffers = Self {
            seed,
            input: tensor("input", Self::input_seed(seed)),
            output_gradient: tensor("output_gradient", Self::gradient_seed(seed)),
            output: gpu.zeroed("output", plan.tensor_size()),
            gamma: Parameter::Gamma.upload(gpu, channels),
            beta: Parameter::Beta.upload(gpu, channels),
            running_mean: Parameter::Mean.upload(gpu, channels),
            running_variance: Parameter::Variance.upload(gpu, channels),
            frozen_mean: Parameter::Mean.upload(gpu, channels),
            frozen_variance: Parameter::Variance.upload(gpu, channels),
            gamma_gradient: gpu.zeroed("gamma_gradient", plan.vector_size()),
            beta_gradient: gpu.zeroed("beta_gradient", plan.vector_size()),
            saved: gpu.zeroed("saved", plan.saved_size()),
            workspace: gpu.zeroed("workspace", workspace),
        };
        // Uploads are staged; submitted here, the staging memory is free before the next set.
        gpu.queue.submit([]);
        let caught = [pollster::block_on(memory.pop()), pollster::block_on(validation.pop())];
        match caught.into_iter().flatten().next() {
            Some(error) => Err(error.to_string()),
            None => {
                gpu.wait();
                Ok(buffers)
            }
        }
    }

    /// The seed of the input's noise.
    pub const fn input_seed(seed: u32) -> u32 {
        2 * seed
    }

    /// The seed of the output gradient's noise.
    pub const fn gradient_seed(seed: u32) -> u32 {
        2 * seed + 1
    }
}

#[cfg(test)]
mod tests {
    use wgpu_batch_norm::{AdapterClass, BatchNormDescriptor, DeviceProfile, Shape};

    use super::*;

    fn plan() -> Plan {
        let descriptor = BatchNormDescriptor { channels: 64, ..Default::default() };
        let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
        Plan::new(&descriptor, &Shape::new(&[32, 64, 56, 56]).unwrap(), &profile).unwrap()
    }

    #[test]
    fn ideal_bytes_count_each_tensor_once_and_moved_bytes_as_often_as_the_limit() {
        let (tensor, channels) = (32 * 64 * 56 * 56 * 4, 64);
        let bytes = |operation: Operation| (operation.ideal_bytes(&plan()), operation.moved_bytes(&plan()));
        let with = |tensors: u64, moved: u64, vectors: u64| {
            (tensors * tensor + vectors * channels * 4, moved * tensor + vectors * channels * 4)
        };
        assert_eq!(bytes(Operation::Training), with(2, 3, 6 + 4));
        assert_eq!(bytes(Operation::Inference), with(2, 2, 4));
        assert_eq!(bytes(Operation::Backward), with(3, 5, 3 + 4));
        assert_eq!(bytes(Operation::BackwardFrozen), with(3, 4, 5));
    }

    #[test]
    fn limits_are_sums_and_copies() {
        let limits = Operation::ALL.map(|operation| (operation.limit(10.0, 1.0), operation.limit_formula()));
        let expected = [(11.0, "sum + copy"), (10.0, "copy"), (13.0, "3 sums + copy"), (12.0, "2 sums + copy")];
        assert_eq!(limits, expected.map(|(time, formula)| (time, formula.to_string())));
    }

    #[test]
    fn noise_fills_its_range_and_differs_between_seeds() {
        let values: Vec<f32> = (0..10_000).map(|index| noise(1, index)).collect();
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)) && mean.abs() < 0.03, "mean {mean}");
        assert_ne!(noise(1, 7), noise(2, 7));
    }
}
