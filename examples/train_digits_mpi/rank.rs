//! The network of one rank: its share of every batch, bound as stages with an exchange between each and the next.
//!
//! With the whole batch there is one stage, of the crate's ordinary operations, to compare with.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use wgpu_batch_norm::exchange::{Collective as _, Exchange, ExchangeError, ExchangeItem, MpiCollective};
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, ConcludeBuffers, Convention, Error, Gradient, PartBuffers, Plan,
    RunningStatistics, Shape as TensorShape, Step, TrainingBuffers, TrainingStep, wgpu,
};

use crate::kernels::{self, Shape};
use crate::network::context::{Context, Dispatch};

/// Slices start at multiples of this many values: 256 bytes.
const ALIGNMENT: usize = 64;
const WEIGHT_DEVIATION: f32 = 0.1;

/// What ranks must agree on, and may be made to disagree on.
pub struct Settings<'a> {
    pub widths: &'a [usize],
    pub convention: Convention,
    /// Of the whole batch.
    pub batch: usize,
    pub seed: u64,
}

enum Operation {
    Dense(Dispatch),
    Norm(Step),
    NormTraining(TrainingStep),
}

/// Operations up to an exchange, or to the end of the step.
#[derive(Default)]
struct Stage {
    operations: Vec<Operation>,
    exchange: Option<Exchange>,
}

/// Buffers and places of a hidden layer or the last one.
struct Layer {
    inputs: usize,
    outputs: usize,
    weight: Range<usize>,
    /// Bias of the last layer; gamma and beta of hidden ones.
    bias: Range<usize>,
    gamma: Range<usize>,
    running: [Range<usize>; 2],
    norm: Option<Norm>,
    linear: wgpu::Buffer,
    linear_gradient: wgpu::Buffer,
    normalised: wgpu::Buffer,
    normalised_gradient: wgpu::Buffer,
    output: wgpu::Buffer,
    output_gradient: wgpu::Buffer,
}

struct Norm {
    bn: BatchNorm,
    plan: Plan,
    moments: wgpu::Buffer,
    sums: wgpu::Buffer,
    saved: wgpu::Buffer,
    workspace: wgpu::Buffer,
}

/// What a rank does in the place of an exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failing {
    /// Ends the process.
    Die,
    /// Tells the others that it cannot go on.
    GiveUp,
    /// Goes on to the next one, as if its program were another.
    Skip,
}

/// What came of a step.
#[derive(Clone, Copy, Debug)]
pub struct Trained {
    /// The mean loss of the whole batch before it.
    pub loss: f64,
    /// Whether a rank wants it to be the last one. All of them find the same.
    pub is_last: bool,
}

pub struct Network<'c> {
    context: &'c Context,
    stages: Vec<Stage>,
    /// The updates of running statistics, for when no exchange of the step can fail any more.
    commits: Vec<TrainingStep>,
    update: Dispatch,
    rows: usize,
    parameters: usize,
    running_values: usize,
    images: wgpu::Buffer,
    labels: wgpu::Buffer,
    scores: wgpu::Buffer,
    gradients: wgpu::Buffer,
    running: wgpu::Buffer,
    /// In the place of which exchange of the next step this rank fails; behind the last one, of the sum of gradients.
    pub failing: Option<(usize, Failing)>,
    /// In exchanges of statistics, waiting for the device and for other ranks.
    pub fetching: Duration,
    pub exchanging: Duration,
}

impl<'c> Network<'c> {
    /// A network that trains on `rows` rows of every batch; of all of them where it is alone.
    pub fn new(context: &'c Context, settings: &Settings<'_>, rows: usize, alone: bool) -> Result<Self, ExchangeError> {
        let gpu = &context.gpu;
        let (mut parameters, mut running_values) = (0, 0);
        let count = settings.widths.len() - 1;
        let mut layers = Vec::new();
        for (index, pair) in settings.widths.windows(2).enumerate() {
            let (inputs, outputs) = (pair[0], pair[1]);
            let tensor = || gpu.zeroed("activations", 4 * (rows * outputs) as u64);
            let hidden = index + 1 < count;
            let weight = reserve(&mut parameters, inputs * outputs);
            let bias = reserve(&mut parameters, outputs);
            let gamma = if hidden { reserve(&mut parameters, outputs) } else { 0..0 };
            let running = if hidden { [(); 2].map(|()| reserve(&mut running_values, outputs)) } else { [0..0, 0..0] };
            let norm = if hidden { Some(Norm::new(context, settings, rows, outputs)?) } else { None };
            layers.push(Layer {
                inputs,
                outputs,
                weight,
                bias,
                gamma,
                running,
                norm,
                linear: tensor(),
                linear_gradient: tensor(),
                normalised: tensor(),
                normalised_gradient: tensor(),
                output: tensor(),
                output_gradient: tensor(),
            });
        }
        let values = gpu.upload("parameters", &initial_parameters(&layers, parameters, settings.seed));
        let gradients = gpu.zeroed("gradients", 4 * parameters as u64);
        let bindings = [(1, gradients.slice(..)), (4, values.slice(..))];
        let update = kernels::bind(context, "update", parameters, None, &bindings);
        let mut network = Self {
            context,
            stages: Vec::new(),
            commits: Vec::new(),
            update,
            rows,
            parameters,
            running_values,
            images: gpu.zeroed("images", 4 * (rows * settings.widths[0]) as u64),
            labels: gpu.zeroed("labels", 4 * rows as u64),
            scores: gpu.zeroed("scores", 4 * rows as u64),
            gradients,
            running: gpu.upload("running statistics", &initial_running(&layers, running_values)),
            failing: None,
            fetching: Duration::ZERO,
            exchanging: Duration::ZERO,
        };
        network.bind(&layers, &values, settings.batch, alone)?;
        Ok(network)
    }

    fn bind(
        &mut self,
        layers: &[Layer],
        parameters: &wgpu::Buffer,
        batch: usize,
        alone: bool,
    ) -> Result<(), ExchangeError> {
        let (context, rows) = (self.context, self.rows);
        let zeros = context.gpu.zeroed("no bias", 4 * 1024);
        let mut stages = vec![Stage::default()];
        let mut commits = Vec::new();
        let shape_of = |layer: &Layer| Some(Shape { rows, inputs: layer.inputs, outputs: layer.outputs, batch });
        let dense = |stages: &mut Vec<Stage>, name, invocations, shape, bindings: &[(u32, wgpu::BufferSlice<'_>)]| {
            if let Some(stage) = stages.last_mut() {
                stage.operations.push(Operation::Dense(kernels::bind(context, name, invocations, shape, bindings)));
            }
        };
        let add = |stages: &mut Vec<Stage>, operation| {
            if let Some(stage) = stages.last_mut() {
                stage.operations.push(operation);
            }
        };
        // The records of a stage travel before the next one.
        let exchange = |stages: &mut Vec<Stage>, name: &str, item: ExchangeItem<'_>| -> Result<(), ExchangeError> {
            if let Some(stage) = stages.last_mut() {
                stage.exchange = Some(Exchange::new(&context.gpu.device, &[item])?.named(name));
            }
            stages.push(Stage::default());
            Ok(())
        };
        let input_of = |index: usize| if index == 0 { &self.images } else { &layers[index - 1].output };

        for (index, layer) in layers.iter().enumerate() {
            let bias = if layer.norm.is_some() { zeros.slice(..) } else { slice(parameters, &layer.bias) };
            let bindings = [
                (1, input_of(index).slice(..)),
                (2, slice(parameters, &layer.weight)),
                (3, bias),
                (4, layer.linear.slice(..)),
            ];
            let elements = rows * layer.outputs;
            dense(&mut stages, "linear_forward", elements, shape_of(layer), &bindings);
            if let Some(norm) = &layer.norm {
                let (moments, saved) = (norm.moments.slice(..), norm.saved.slice(..));
                let running = Some(RunningStatistics {
                    mean: slice(&self.running, &layer.running[0]),
                    variance: slice(&self.running, &layer.running[1]),
                    batches_tracked: None,
                });
                let training = TrainingBuffers {
                    gamma: Some(slice(parameters, &layer.gamma)),
                    beta: Some(slice(parameters, &layer.bias)),
                    running: running.filter(|_| alone),
                    saved: Some(saved),
                    ..TrainingBuffers::new(norm.of(&layer.linear), norm.of(&layer.normalised), norm.workspace.slice(..))
                };
                if alone {
                    add(&mut stages, Operation::NormTraining(norm.bn.bind_training(&norm.plan, &training)?));
                } else {
                    let part = PartBuffers::new(norm.of(&layer.linear), moments, norm.workspace.slice(..));
                    add(&mut stages, Operation::Norm(norm.bn.bind_part_moments(&norm.plan, &part)?));
                    let name = format!("forward of layer {index}");
                    exchange(&mut stages, &name, ExchangeItem::moments(&norm.plan, moments))?;
                    let step = norm.bn.bind_training_from_parts(&norm.plan, moments, &training)?;
                    add(&mut stages, Operation::NormTraining(step));
                    let conclude = ConcludeBuffers { running, ..ConcludeBuffers::new(moments, saved) };
                    commits.push(norm.bn.bind_conclude(&norm.plan, &conclude)?);
                }
                let bindings = [(1, layer.normalised.slice(..)), (4, layer.output.slice(..))];
                dense(&mut stages, "sigmoid_forward", elements, shape_of(layer), &bindings);
            } else {
                let bindings = [
                    (1, layer.linear.slice(..)),
                    (6, self.labels.slice(..)),
                    (4, layer.linear_gradient.slice(..)),
                    (5, self.scores.slice(..)),
                ];
                dense(&mut stages, "softmax_cross_entropy", rows, shape_of(layer), &bindings);
            }
        }

        for (index, layer) in layers.iter().enumerate().rev() {
            if let Some(norm) = &layer.norm {
                let bindings = [
                    (1, layer.output.slice(..)),
                    (2, layer.output_gradient.slice(..)),
                    (4, layer.normalised_gradient.slice(..)),
                ];
                dense(&mut stages, "sigmoid_backward", rows * layer.outputs, shape_of(layer), &bindings);
                let (x, dy) = (norm.of(&layer.linear), norm.of(&layer.normalised_gradient));
                let backward = BackwardBuffers {
                    gamma: Some(slice(parameters, &layer.gamma)),
                    saved: Some(norm.saved.slice(..)),
                    input_gradient: Some(Gradient::Overwrite(norm.of(&layer.linear_gradient))),
                    gamma_gradient: Some(Gradient::Overwrite(slice(&self.gradients, &layer.gamma))),
                    beta_gradient: Some(Gradient::Overwrite(slice(&self.gradients, &layer.bias))),
                    ..BackwardBuffers::new(x, dy, norm.workspace.slice(..))
                };
                let (sums, moments) = (norm.sums.slice(..), norm.moments.slice(..));
                if alone {
                    add(&mut stages, Operation::Norm(norm.bn.bind_backward(&norm.plan, &backward)?));
                } else {
                    let step = norm.bn.bind_part_gradients(&norm.plan, sums, &backward)?;
                    add(&mut stages, Operation::Norm(step));
                    let name = format!("backward of layer {index}");
                    exchange(&mut stages, &name, ExchangeItem::gradient_sums(&norm.plan, sums))?;
                    let step = norm.bn.bind_backward_from_parts(&norm.plan, sums, moments, &backward)?;
                    add(&mut stages, Operation::Norm(step));
                }
            } else {
                let bindings = [(1, layer.linear_gradient.slice(..)), (4, slice(&self.gradients, &layer.bias))];
                dense(&mut stages, "linear_backward_bias", layer.outputs, shape_of(layer), &bindings);
            }
            let bindings = [
                (1, layer.linear_gradient.slice(..)),
                (2, input_of(index).slice(..)),
                (4, slice(&self.gradients, &layer.weight)),
            ];
            let weights = layer.inputs * layer.outputs;
            dense(&mut stages, "linear_backward_weight", weights, shape_of(layer), &bindings);
            if index > 0 {
                let bindings = [
                    (1, layer.linear_gradient.slice(..)),
                    (2, slice(parameters, &layer.weight)),
                    (4, layers[index - 1].output_gradient.slice(..)),
                ];
                dense(&mut stages, "linear_backward_input", rows * layer.inputs, shape_of(layer), &bindings);
            }
        }
        (self.stages, self.commits) = (stages, commits);
        Ok(())
    }

    /// One step on this rank's rows, which `wants_to_stop` after it, and so all do. If it fails, parameters and running statistics
    /// are those of the step before.
    pub fn train(
        &mut self,
        images: &[f32],
        labels: &[u32],
        batch: usize,
        ranks: &mut Option<MpiCollective>,
        wants_to_stop: bool,
    ) -> Result<Trained, ExchangeError> {
        let gpu = &self.context.gpu;
        let queue = &gpu.queue;
        if self.rows > 0 {
            queue.write_buffer(&self.images, 0, bytemuck::cast_slice(images));
            queue.write_buffer(&self.labels, 0, bytemuck::cast_slice(labels));
        }
        for (number, stage) in self.stages.iter_mut().enumerate() {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for operation in &stage.operations {
                match operation {
                    Operation::Dense(dispatch) => dispatch.record(&mut pass),
                    Operation::Norm(step) => step.record(&mut pass),
                    Operation::NormTraining(step) => step.record(&mut pass),
                }
            }
            drop(pass);
            if let Some(exchange) = &mut stage.exchange {
                exchange.record(&mut encoder)?;
            }
            queue.submit([encoder.finish()]);
            if let (Some(exchange), Some(ranks)) = (&mut stage.exchange, ranks.as_mut()) {
                let start = Instant::now();
                gpu.wait();
                match self.failing.filter(|&(at, _)| at == number) {
                    Some((_, Failing::Die)) => std::process::abort(),
                    Some((_, Failing::GiveUp)) => {
                        exchange.abandon(ranks)?;
                        return Err(ExchangeError::GivenUp { rank: ranks.rank() });
                    }
                    Some((_, Failing::Skip)) => {
                        exchange.reset();
                        continue;
                    }
                    None => {}
                }
                let fetched = Instant::now();
                exchange.finish(queue, ranks)?;
                self.fetching += fetched - start;
                self.exchanging += fetched.elapsed();
            }
        }
        if self.failing == Some((self.stages.len() - 1, Failing::Die)) {
            std::process::abort();
        }
        // Gradients, the loss and how many ranks want to stop in one message.
        let mut values: Vec<f32> = gpu.read(&self.gradients, self.parameters);
        let losses: Vec<f32> = gpu.read(&self.scores, self.rows);
        values.extend([losses.iter().sum(), f32::from(u8::from(wants_to_stop))]);
        if let Some(ranks) = ranks {
            ranks.all_sum(&mut values).map_err(|error| ExchangeError::Collective(error.into()))?;
        }
        let is_last = values.pop().is_some_and(|stopping| stopping > 0.0);
        let loss = f64::from(values.pop().unwrap_or_default()) / batch as f64;
        queue.write_buffer(&self.gradients, 0, bytemuck::cast_slice(&values));
        gpu.submit(|pass| {
            self.commits.iter().for_each(|commit| commit.record(pass));
            self.update.record(pass);
        });
        Ok(Trained { loss, is_last })
    }

    pub fn running_statistics(&self) -> Vec<f32> {
        self.context.gpu.read(&self.running, self.running_values)
    }
}

impl Norm {
    fn new(context: &Context, settings: &Settings<'_>, rows: usize, channels: usize) -> Result<Self, Error> {
        let descriptor =
            BatchNormDescriptor { channels: channels as u32, convention: settings.convention, ..Default::default() };
        let bn = BatchNorm::with_kernels(&context.kernels, &descriptor)?;
        let plan = bn.plan(&TensorShape::new(&[rows, channels])?)?;
        let buffer = |size| context.gpu.zeroed("batch norm", size);
        let (moments, sums) = (buffer(plan.part_moments_size()), buffer(plan.gradient_sums_size()));
        let (saved, workspace) = (buffer(plan.saved_size()), buffer(plan.workspace_size()));
        Ok(Self { bn, plan, moments, sums, saved, workspace })
    }

    /// The bytes of a tensor, none in an empty share.
    fn of<'a>(&self, buffer: &'a wgpu::Buffer) -> wgpu::BufferSlice<'a> {
        buffer.slice(..self.plan.tensor_size())
    }
}

/// The same on every rank.
fn initial_parameters(layers: &[Layer], count: usize, seed: u64) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(seed);
    let normal = Normal::new(0.0, WEIGHT_DEVIATION).expect("the deviation is a number above 0");
    let mut parameters = vec![0.0; count];
    for layer in layers {
        parameters[layer.weight.clone()].fill_with(|| normal.sample(&mut random));
        parameters[layer.gamma.clone()].fill(1.0);
    }
    parameters
}

fn initial_running(layers: &[Layer], count: usize) -> Vec<f32> {
    let mut running = vec![0.0; count];
    layers.iter().for_each(|layer| running[layer.running[1].clone()].fill(1.0));
    running
}

/// Takes the next values and moves `end` to the next aligned place.
fn reserve(end: &mut usize, len: usize) -> Range<usize> {
    let start = *end;
    *end = (start + len).next_multiple_of(ALIGNMENT);
    start..start + len
}

fn slice<'a>(buffer: &'a wgpu::Buffer, values: &Range<usize>) -> wgpu::BufferSlice<'a> {
    buffer.slice(4 * values.start as u64..4 * values.end as u64)
}
