//! The network on the device: how a program links the crate into training code of its own.
//!
//! Everything is bound once, at the start. A training step is then a list of operations, this crate's among the example's
//! own, recorded into one compute pass; many steps go into one submission. wgpu puts the barriers between the dispatches.
//!
//! Parameters, gradients and running statistics are slices of one buffer each. No dispatch reads and writes the same
//! buffer, which wgpu would refuse.

use std::ops::Range;

use wgpu::util::DeviceExt as _;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, Error, Gradient, InferenceBuffers, Kernels, RunningStatistics,
    Shape, Step, TrainingBuffers, TrainingStep, wgpu,
};

use crate::architecture::{Architecture, Layer};
use crate::data::Digits;
use crate::dense::{DenseKernels, Dispatch};
use crate::network::{InferenceRecord, Metrics, Network};
use crate::support::Gpu;

/// Steps in one submission: enough that the host's part is small, few enough that the progress bar moves.
const STEPS_PER_SUBMISSION: usize = 40;

/// The network, bound and ready to be recorded.
pub struct GpuNetwork<'g> {
    gpu: &'g Gpu,
    architecture: Architecture,
    batch_size: usize,
    test_size: usize,
    parameters: wgpu::Buffer,
    running: wgpu::Buffer,
    /// Sample indices for one submission, a slot for each step.
    chosen: wgpu::Buffer,
    /// Values from one slot to the next: bindings must start at aligned offsets.
    slot: usize,
    /// Fetches the batch of each slot.
    gather: Vec<Dispatch>,
    training: Vec<Operation>,
    training_scores: wgpu::Buffer,
    trained_samples: usize,
    test: Vec<Operation>,
    test_scores: wgpu::Buffer,
    /// What `test` fills, layer by layer.
    tested: Vec<Activations>,
}

/// A part of a step: a kernel of the example's own, or one of the crate's.
#[derive(Debug)]
enum Operation {
    Dense(Dispatch),
    NormTraining(TrainingStep),
    Norm(Step),
}

impl Operation {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Dense(dispatch) => dispatch.record(pass),
            Self::NormTraining(step) => step.record(pass),
            Self::Norm(step) => step.record(pass),
        }
    }
}

/// What one layer computes on the way forward.
#[derive(Debug)]
struct Activations {
    linear: wgpu::Buffer,
    /// Absent without batch norm.
    normalised: Option<wgpu::Buffer>,
    /// Absent after the last layer.
    sigmoid: Option<wgpu::Buffer>,
    /// The statistics that the crate's forward hands to its backward.
    saved: Option<wgpu::Buffer>,
}

impl Activations {
    fn sigmoid_input(&self) -> &wgpu::Buffer {
        self.normalised.as_ref().unwrap_or(&self.linear)
    }
}

/// Which statistics batch norm takes.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Training,
    Inference,
}

/// What is needed to bind operations, and no longer afterwards.
struct Binder<'a> {
    gpu: &'a Gpu,
    architecture: &'a Architecture,
    dense: DenseKernels,
    /// The batch norm of each layer that has one.
    norms: Vec<Option<BatchNorm>>,
    parameters: &'a wgpu::Buffer,
    gradients: wgpu::Buffer,
    running: &'a wgpu::Buffer,
    /// Scratch of all batch norms: they run one after the other.
    workspace: wgpu::Buffer,
    /// The bias of layers without bias.
    zeros: wgpu::Buffer,
}

/// Buffers of one number of samples: the batch or the test set.
struct Samples<'a> {
    rows: usize,
    images: &'a wgpu::Buffer,
    labels: &'a wgpu::Buffer,
    scores: &'a wgpu::Buffer,
    logits_gradient: wgpu::Buffer,
}

impl<'g> GpuNetwork<'g> {
    pub fn new(
        gpu: &'g Gpu,
        digits: &Digits,
        architecture: &Architecture,
        parameters: &[f32],
        batch_size: usize,
        learning_rate: f32,
    ) -> Result<Self, Error> {
        let floats = |label: &str, count: usize| gpu.zeroed(label, bytes(count));
        let parameters = gpu.upload("parameters", parameters);
        let running = gpu.upload("running statistics", &architecture.initial_running());
        let widest = architecture.layers.iter().map(|layer| layer.outputs).max().unwrap_or(0);
        let classes = architecture.layers.last().map_or(0, |layer| layer.outputs);
        let pixels = architecture.layers.first().map_or(0, |layer| layer.inputs);
        let test_size = digits.test.len();

        // Pipelines are compiled once per device and shared by all batch norms made from them.
        let kernels = Kernels::new(&gpu.device);
        let norm = |(index, layer): (usize, &Layer)| {
            let label = Some(format!("hidden layer {}", index + 1));
            let descriptor = BatchNormDescriptor { label, channels: layer.outputs as u32, ..Default::default() };
            layer.norm.as_ref().map(|_| BatchNorm::with_kernels(&kernels, &descriptor)).transpose()
        };
        let norms: Vec<_> = architecture.layers.iter().enumerate().map(norm).collect::<Result<_, _>>()?;
        let mut workspace_size = 0;
        for (bn, layer) in norms.iter().zip(&architecture.layers) {
            if let Some(bn) = bn {
                workspace_size =
                    workspace_size.max(bn.plan(&Shape::new(&[batch_size, layer.outputs])?)?.workspace_size());
            }
        }
        let binder = Binder {
            gpu,
            architecture,
            dense: DenseKernels::new(&gpu.device),
            norms,
            parameters: &parameters,
            gradients: floats("gradients", architecture.parameters),
            running: &running,
            workspace: gpu.zeroed("workspace", workspace_size),
            zeros: floats("zeros", widest),
        };

        // The device picks the batches itself, by sample index.
        let alignment = gpu.device.limits().min_storage_buffer_offset_alignment as usize;
        let slot = batch_size.next_multiple_of(alignment / size_of::<u32>());
        let chosen = floats("chosen samples", STEPS_PER_SUBMISSION * slot);
        let all_images = gpu.upload("training images", &digits.training.images);
        let all_labels = gpu.upload("training labels", &digits.training.labels);
        let batch_images = floats("batch images", batch_size * pixels);
        let batch_labels = floats("batch labels", batch_size);
        let shape = binder.shape(batch_size, pixels, 0);
        let gather = |step: usize| {
            let slices = [
                shape.slice(..),
                all_images.slice(..),
                all_labels.slice(..),
                chosen.slice(bytes(step * slot)..bytes(step * slot + batch_size)),
                batch_images.slice(..),
                batch_labels.slice(..),
            ];
            binder.dense.gather_batch.bind(&gpu.device, batch_size * pixels / 4, &slices)
        };
        let gather = (0..STEPS_PER_SUBMISSION).map(gather).collect();

        let training_scores = floats("training scores", 2 * batch_size);
        let batch = Samples {
            rows: batch_size,
            images: &batch_images,
            labels: &batch_labels,
            scores: &training_scores,
            logits_gradient: floats("logits gradient", batch_size * classes),
        };
        let activations = binder.activations(batch_size, Mode::Training);
        let mut training = binder.forward(&batch, &activations, Mode::Training)?;
        training.extend(binder.backward(&batch, &activations)?);
        training.push(binder.update(learning_rate));

        let (test_images, test_labels) =
            (gpu.upload("test images", &digits.test.images), gpu.upload("test labels", &digits.test.labels));
        let test_scores = floats("test scores", 2 * test_size);
        let samples = Samples {
            rows: test_size,
            images: &test_images,
            labels: &test_labels,
            scores: &test_scores,
            logits_gradient: floats("unused logits gradient", test_size * classes),
        };
        let tested = binder.activations(test_size, Mode::Inference);
        let test = binder.forward(&samples, &tested, Mode::Inference)?;

        Ok(Self {
            gpu,
            architecture: architecture.clone(),
            batch_size,
            test_size,
            parameters,
            running,
            chosen,
            slot,
            gather,
            training,
            training_scores,
            trained_samples: 0,
            test,
            test_scores,
            tested,
        })
    }
}

impl Binder<'_> {
    /// A dense kernel bound, as a part of a step.
    fn dense(&self, kernel: &crate::dense::Kernel, invocations: usize, slices: &[wgpu::BufferSlice<'_>]) -> Operation {
        Operation::Dense(kernel.bind(&self.gpu.device, invocations, slices))
    }

    /// The `Shape` of the shaders.
    fn shape(&self, rows: usize, inputs: usize, outputs: usize) -> wgpu::Buffer {
        self.uniform("shape", &[rows as u32, inputs as u32, outputs as u32, 0])
    }

    fn uniform<T: bytemuck::Pod>(&self, label: &str, values: &[T]) -> wgpu::Buffer {
        self.gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(label),
            contents: bytemuck::cast_slice(values),
            usage: wgpu::BufferUsages::UNIFORM,
        })
    }

    fn activations(&self, rows: usize, mode: Mode) -> Vec<Activations> {
        let count = self.architecture.layers.len();
        let make = |(index, layer): (usize, &Layer)| {
            let tensor = |label| self.gpu.zeroed(label, bytes(rows * layer.outputs));
            let norm = layer.norm.as_ref();
            Activations {
                linear: tensor("linear output"),
                normalised: norm.map(|_| tensor("normalised")),
                sigmoid: (index + 1 < count).then(|| tensor("sigmoid output")),
                // Four floats a channel; `Plan::saved_size` says the same.
                saved: norm
                    .filter(|_| mode == Mode::Training)
                    .map(|_| self.gpu.zeroed("saved statistics", bytes(4 * layer.outputs))),
            }
        };
        self.architecture.layers.iter().enumerate().map(make).collect()
    }

    fn forward(&self, samples: &Samples<'_>, all: &[Activations], mode: Mode) -> Result<Vec<Operation>, Error> {
        let mut operations = Vec::new();
        let rows = samples.rows;
        let mut input = samples.images;
        for ((layer, bn), made) in self.architecture.layers.iter().zip(&self.norms).zip(all) {
            let blocks = rows.div_ceil(4) * layer.outputs.div_ceil(4);
            let shape = self.shape(rows, layer.inputs, layer.outputs);
            let slices = [
                shape.slice(..),
                input.slice(..),
                slice(self.parameters, &layer.weight),
                layer.bias.as_ref().map_or(self.zeros.slice(..), |bias| slice(self.parameters, bias)),
                made.linear.slice(..),
            ];
            operations.push(self.dense(&self.dense.linear_forward, blocks, &slices));

            if let (Some(bn), Some(norm), Some(output)) = (bn, &layer.norm, &made.normalised) {
                let plan = bn.plan(&Shape::new(&[rows, layer.outputs])?)?;
                let gamma = Some(slice(self.parameters, &norm.gamma));
                let beta = Some(slice(self.parameters, &norm.beta));
                let running_mean = slice(self.running, &norm.running_mean);
                let running_variance = slice(self.running, &norm.running_variance);
                let (input, output) = (made.linear.slice(..), output.slice(..));
                operations.push(match mode {
                    Mode::Training => {
                        let (mean, variance) = (running_mean, running_variance);
                        let running = Some(RunningStatistics { mean, variance, batches_tracked: None });
                        let saved = made.saved.as_ref().map(|saved| saved.slice(..));
                        let workspace = self.workspace.slice(..);
                        let new = TrainingBuffers::new(input, output, workspace);
                        let buffers = TrainingBuffers { gamma, beta, running, saved, ..new };
                        Operation::NormTraining(bn.bind_training(&plan, &buffers)?)
                    }
                    Mode::Inference => {
                        let new = InferenceBuffers::new(input, output, running_mean, running_variance);
                        let buffers = InferenceBuffers { gamma, beta, ..new };
                        Operation::Norm(bn.bind_inference(&plan, &buffers)?)
                    }
                });
            }

            if let Some(sigmoid) = &made.sigmoid {
                let slices = [made.sigmoid_input().slice(..), sigmoid.slice(..)];
                operations.push(self.dense(&self.dense.sigmoid_forward, rows * layer.outputs, &slices));
                input = sigmoid;
            } else {
                let slices = [
                    shape.slice(..),
                    made.linear.slice(..),
                    samples.labels.slice(..),
                    samples.logits_gradient.slice(..),
                    samples.scores.slice(..),
                ];
                operations.push(self.dense(&self.dense.softmax_cross_entropy, rows, &slices));
            }
        }
        Ok(operations)
    }

    fn backward(&self, samples: &Samples<'_>, all: &[Activations]) -> Result<Vec<Operation>, Error> {
        let mut operations = Vec::new();
        let rows = samples.rows;
        // The gradient with respect to the output of the layer that the loop is at.
        let mut output_gradient = samples.logits_gradient.clone();
        for (index, layer) in self.architecture.layers.iter().enumerate().rev() {
            let made = &all[index];
            let tensor = |label| self.gpu.zeroed(label, bytes(rows * layer.outputs));

            if let Some(sigmoid) = &made.sigmoid {
                let gradient = tensor("gradient before the sigmoid");
                let slices = [sigmoid.slice(..), output_gradient.slice(..), gradient.slice(..)];
                operations.push(self.dense(&self.dense.sigmoid_backward, rows * layer.outputs, &slices));
                output_gradient = gradient;
            }

            if let (Some(bn), Some(norm)) = (&self.norms[index], &layer.norm) {
                let gradient = tensor("gradient before the batch norm");
                let plan = bn.plan(&Shape::new(&[rows, layer.outputs])?)?;
                let step = bn.bind_backward(
                    &plan,
                    &BackwardBuffers {
                        gamma: Some(slice(self.parameters, &norm.gamma)),
                        saved: made.saved.as_ref().map(|saved| saved.slice(..)),
                        input_gradient: Some(Gradient::Overwrite(gradient.slice(..))),
                        gamma_gradient: Some(Gradient::Overwrite(slice(&self.gradients, &norm.gamma))),
                        beta_gradient: Some(Gradient::Overwrite(slice(&self.gradients, &norm.beta))),
                        ..BackwardBuffers::new(
                            made.linear.slice(..),
                            output_gradient.slice(..),
                            self.workspace.slice(..),
                        )
                    },
                )?;
                operations.push(Operation::Norm(step));
                output_gradient = gradient;
            }

            let before = index.checked_sub(1).map(|index| &all[index]);
            let input = before.and_then(|before| before.sigmoid.as_ref()).unwrap_or(samples.images);
            let shape = self.shape(rows, layer.inputs, layer.outputs);
            let slices =
                [shape.slice(..), output_gradient.slice(..), input.slice(..), slice(&self.gradients, &layer.weight)];
            let blocks = layer.outputs.div_ceil(4) * layer.inputs / 4;
            operations.push(self.dense(&self.dense.linear_backward_weight, blocks, &slices));

            if let Some(bias) = &layer.bias {
                let slices = [shape.slice(..), output_gradient.slice(..), slice(&self.gradients, bias)];
                operations.push(self.dense(&self.dense.linear_backward_bias, layer.outputs, &slices));
            }

            if index > 0 {
                let gradient = self.gpu.zeroed("gradient before the layer", bytes(rows * layer.inputs));
                let slices = [
                    shape.slice(..),
                    output_gradient.slice(..),
                    slice(self.parameters, &layer.weight),
                    gradient.slice(..),
                ];
                let blocks = rows.div_ceil(4) * layer.inputs / 4;
                operations.push(self.dense(&self.dense.linear_backward_input, blocks, &slices));
                output_gradient = gradient;
            }
        }
        Ok(operations)
    }

    fn update(&self, learning_rate: f32) -> Operation {
        let rate = self.uniform("learning rate", &[learning_rate]);
        let slices = [rate.slice(..), self.gradients.slice(..), self.parameters.slice(..)];
        self.dense(&self.dense.sgd_update, self.architecture.parameters / 4, &slices)
    }
}

impl GpuNetwork<'_> {
    /// Reads the scores and starts them again from 0.
    fn take_scores(&self, scores: &wgpu::Buffer, rows: usize, samples: usize) -> Metrics {
        let values: Vec<[f32; 2]> = self.gpu.read(scores, rows);
        self.gpu.queue.write_buffer(scores, 0, &vec![0; rows * size_of::<[f32; 2]>()]);
        let mean = |index: usize| values.iter().map(|row| f64::from(row[index])).sum::<f64>() / samples as f64;
        Metrics { loss: mean(0), accuracy: mean(1) }
    }
}

impl Network for GpuNetwork<'_> {
    fn steps_per_call(&self) -> usize {
        STEPS_PER_SUBMISSION
    }

    fn train(&mut self, chosen: &[u32]) -> Result<(), Error> {
        let mut slots = vec![0; STEPS_PER_SUBMISSION * self.slot];
        for (slot, batch) in slots.chunks_mut(self.slot).zip(chosen.chunks(self.batch_size)) {
            slot[..batch.len()].copy_from_slice(batch);
        }
        self.gpu.queue.write_buffer(&self.chosen, 0, bytemuck::cast_slice(&slots));
        self.gpu.submit(|pass| {
            for gather in &self.gather[..chosen.len() / self.batch_size] {
                gather.record(pass);
                for operation in &self.training {
                    operation.record(pass);
                }
            }
        });
        // Only so that the progress bar tells the truth; nothing else needs the result yet.
        self.gpu.wait();
        self.trained_samples += chosen.len();
        Ok(())
    }

    fn training_metrics(&mut self) -> Option<Metrics> {
        let samples = std::mem::take(&mut self.trained_samples);
        (samples > 0).then(|| self.take_scores(&self.training_scores, self.batch_size, samples))
    }

    fn test(&mut self) -> Result<Metrics, Error> {
        self.gpu.submit(|pass| self.test.iter().for_each(|operation| operation.record(pass)));
        Ok(self.take_scores(&self.test_scores, self.test_size, self.test_size))
    }

    fn last_hidden_inputs(&self) -> Vec<f32> {
        let mut layers = self.architecture.layers.iter().zip(&self.tested).rev();
        let hidden = layers.find(|(_, made)| made.sigmoid.is_some());
        hidden
            .map_or_else(Vec::new, |(layer, made)| self.gpu.read(made.sigmoid_input(), self.test_size * layer.outputs))
    }

    fn parameters(&self) -> Vec<f32> {
        self.gpu.read(&self.parameters, self.architecture.parameters)
    }

    fn inference_records(&self) -> Vec<InferenceRecord> {
        let parameters = self.parameters();
        let running: Vec<f32> = self.gpu.read(&self.running, self.architecture.running);
        let layers = self.architecture.layers.iter().zip(&self.tested);
        let record = |(layer, made): (&Layer, &Activations)| {
            let (norm, normalised) = (layer.norm.as_ref()?, made.normalised.as_ref()?);
            let count = self.test_size * layer.outputs;
            Some(InferenceRecord {
                input: self.gpu.read(&made.linear, count),
                output: self.gpu.read(normalised, count),
                gamma: parameters[norm.gamma.clone()].to_vec(),
                beta: parameters[norm.beta.clone()].to_vec(),
                running_mean: running[norm.running_mean.clone()].to_vec(),
                running_variance: running[norm.running_variance.clone()].to_vec(),
            })
        };
        layers.filter_map(record).collect()
    }
}

/// Bytes of `count` 32-bit values.
const fn bytes(count: usize) -> u64 {
    4 * count as u64
}

/// The bytes of a range of 32-bit values.
fn slice<'a>(buffer: &'a wgpu::Buffer, values: &Range<usize>) -> wgpu::BufferSlice<'a> {
    buffer.slice(bytes(values.start)..bytes(values.end))
}
