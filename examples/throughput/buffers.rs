//! Buffers of one shape, filled with noise that the host can repeat.

use wgpu_batch_norm::{ActivationState, Plan};

use crate::configuration::{Configuration, Source};
use crate::support::Gpu;

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

/// A tensor that operations are given.
#[derive(Clone, Copy)]
pub enum Given {
    Input,
    OutputGradient,
    Residual,
    /// In place of what forward returned.
    Output,
    /// In place of the mask that forward wrote: set where positive.
    Mask,
    /// By position, not by element: padding where it is at least a half, which is about a quarter.
    Flag,
}

impl Given {
    /// An element before it is stored, in the buffers made from `seed`.
    pub fn at(self, seed: u32, index: u64) -> f32 {
        noise(6 * seed + self as u32, index)
    }

    fn upload(self, gpu: &Gpu, plan: &Plan, configuration: &Configuration, seed: u32) -> wgpu::Buffer {
        let values = (0..plan.problem().elements()).map(|index| self.at(seed, index));
        gpu.upload("tensor", &configuration.element.encode(values))
    }

    fn upload_bits(self, gpu: &Gpu, plan: &Plan, seed: u32) -> wgpu::Buffer {
        let elements = plan.problem().elements();
        let bit = |index| u32::from(self.at(seed, index) > 0.0) << (index % 32);
        let word = |word| (32 * word..elements.min(32 * word + 32)).map(bit).sum();
        gpu.upload("mask", &(0..elements.div_ceil(32)).map(word).collect::<Vec<u32>>())
    }
}

/// Whether a position (an element of one channel, in the order of the tensor) is no padding.
pub fn is_valid(seed: u32, position: u64) -> bool {
    Given::Flag.at(seed, position) < 0.5
}

/// Noise in [−1, 1), the same for the same seed and index; not zeros, on which some devices are quicker.
pub fn noise(seed: u32, index: u64) -> f32 {
    let mut bits = (index as u32) ^ seed.wrapping_mul(0x9e37_79b9);
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    ((bits ^ (bits >> 16)) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// What is padding.
pub struct Padding {
    /// One `u32` a position.
    pub flags: wgpu::Buffer,
    /// Written by marking, read by everything else.
    pub valid: wgpu::Buffer,
}

/// What batch renormalization reads and writes.
pub struct Renormalizing {
    pub limits: wgpu::Buffer,
    /// Written by training for its backward.
    pub saved: wgpu::Buffer,
}

/// Limits of batch renormalization where training has settled.
pub const LIMITS: [f32; 2] = [3.0, 5.0];

/// Everything that the operations on one shape read and write.
pub struct Buffers {
    pub seed: u32,
    pub configuration: Configuration,
    pub input: wgpu::Buffer,
    pub output_gradient: wgpu::Buffer,
    /// y or dx, of whichever operation ran last.
    pub output: wgpu::Buffer,
    pub residual: Option<wgpu::Buffer>,
    pub residual_gradient: Option<wgpu::Buffer>,
    /// Written by forward.
    pub mask: Option<wgpu::Buffer>,
    /// What the backwards take for y, which is overwritten, or for its mask.
    pub given: Option<wgpu::Buffer>,
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
    pub padding: Option<Padding>,
    pub renormalizing: Option<Renormalizing>,
    pub workspace: wgpu::Buffer,
}

impl Buffers {
    /// Fills a set with noise; what wgpu has against it comes back as text.
    pub fn new(
        gpu: &Gpu,
        plan: &Plan,
        workspace: u64,
        configuration: Configuration,
        seed: u32,
    ) -> Result<Self, String> {
        let validation = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let channels = plan.problem().channels as usize;
        let tensor = |given: Given| given.upload(gpu, plan, &configuration, seed);
        let masked = configuration.derivative() == Some(Source::Mask);
        let residual = configuration.residual;
        let buffers = Self {
            seed,
            configuration,
            input: tensor(Given::Input),
            output_gradient: tensor(Given::OutputGradient),
            output: gpu.zeroed("output", plan.tensor_size()),
            residual: residual.then(|| tensor(Given::Residual)),
            residual_gradient: residual.then(|| gpu.zeroed("residual_gradient", plan.tensor_size())),
            mask: masked.then(|| gpu.zeroed("mask", plan.mask_size())),
            given: match configuration.derivative() {
                Some(Source::Output) => Some(tensor(Given::Output)),
                Some(Source::Mask) => Some(Given::Mask.upload_bits(gpu, plan, seed)),
                Some(Source::Recompute) | None => None,
            },
            gamma: Parameter::Gamma.upload(gpu, channels),
            beta: Parameter::Beta.upload(gpu, channels),
            running_mean: Parameter::Mean.upload(gpu, channels),
            running_variance: Parameter::Variance.upload(gpu, channels),
            frozen_mean: Parameter::Mean.upload(gpu, channels),
            frozen_variance: Parameter::Variance.upload(gpu, channels),
            gamma_gradient: gpu.zeroed("gamma_gradient", plan.vector_size()),
            beta_gradient: gpu.zeroed("beta_gradient", plan.vector_size()),
            saved: gpu.zeroed("saved", plan.saved_size()),
            padding: configuration.padded.then(|| {
                let positions = 0..plan.problem().count();
                let flags: Vec<u32> = positions.map(|position| u32::from(is_valid(seed, position))).collect();
                Padding { flags: gpu.upload("flags", &flags), valid: gpu.zeroed("valid", plan.valid_size()) }
            }),
            renormalizing: configuration.renormalized.then(|| Renormalizing {
                limits: gpu.upload("limits", &LIMITS),
                saved: gpu.zeroed("renormalization", plan.renormalization_size()),
            }),
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

    /// What the backwards take the activation's derivative from.
    pub fn state(&self, plan: &Plan) -> ActivationState<'_> {
        match (self.configuration.derivative(), &self.given) {
            (Some(Source::Output), Some(output)) => ActivationState::Output(output.slice(..plan.tensor_size())),
            (Some(Source::Mask), Some(mask)) => ActivationState::Mask(mask.slice(..plan.mask_size())),
            (Some(_), _) => {
                let residual = self.residual.as_ref().map(|residual| residual.slice(..plan.tensor_size()));
                ActivationState::Recompute { residual }
            }
            (None, _) => ActivationState::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_fills_its_range_and_differs_between_seeds() {
        let values: Vec<f32> = (0..10_000).map(|index| noise(1, index)).collect();
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)) && mean.abs() < 0.03, "mean {mean}");
        assert_ne!(noise(1, 7), noise(2, 7));
    }

    #[test]
    fn about_a_quarter_of_the_positions_is_padding() {
        let padding = (0..10_000).filter(|position| !is_valid(1, *position)).count();
        assert!((2300..2700).contains(&padding), "{padding}");
    }
}
