//! The two chains of dispatches: batch norm apart, by the crate's kernels, and fused into the convolutions.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::{
    Activation, BackwardBuffers, BatchNorm, BatchNormDescriptor, ChannelGradientSums, ConcludeBuffers, Error, Gradient,
    Plan, RunningStatistics, Shape, Step, TrainingBuffers, TrainingStep, wgpu,
};

use crate::network::context::{Context, Dispatch, Kernel};

/// Channels of every tensor, as in the WGSL.
pub const WIDTH: usize = 64;
/// Rows of a workgroup, as in the WGSL.
const ROWS: usize = 16;

/// Values that both chains start from.
pub struct Inputs {
    rows: usize,
    input: Vec<f32>,
    weights: [Vec<f32>; 2],
    gamma: Vec<f32>,
    beta: Vec<f32>,
    output_gradient: Vec<f32>,
}

impl Inputs {
    pub fn new(rows: usize) -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let mut uniform = |count: usize, low: f32, high: f32| -> Vec<f32> {
            (0..count).map(|_| random.random_range(low..high)).collect()
        };
        // The mean of what is normalised is some deviations away from 0.
        Self {
            rows,
            input: uniform(rows * WIDTH, 0.0, 1.0),
            weights: [(); 2].map(|()| uniform(WIDTH * WIDTH, -0.1, 0.2)),
            gamma: uniform(WIDTH, 0.5, 1.5),
            beta: uniform(WIDTH, -0.5, 0.5),
            output_gradient: uniform(rows * WIDTH, -1.0, 1.0),
        }
    }
}

/// Results by name.
pub type Outputs = Vec<(&'static str, Vec<f32>)>;

enum Operation {
    Own(Dispatch),
    Norm(Step),
    NormTraining(TrainingStep),
}

/// Dispatches and the buffers that the results are read from.
pub struct Chain {
    operations: Vec<Operation>,
    buffers: Buffers,
    /// The fused chain's dβ and dγ beside each other, where there are no buffers of their own.
    sums: Option<wgpu::Buffer>,
}

/// Tensors and vectors of a chain.
struct Buffers {
    rows: usize,
    input: wgpu::Buffer,
    weights: [wgpu::Buffer; 2],
    gamma: wgpu::Buffer,
    beta: wgpu::Buffer,
    running: [wgpu::Buffer; 2],
    saved: wgpu::Buffer,
    /// Of the first convolution, x of the batch norm.
    before: wgpu::Buffer,
    output: wgpu::Buffer,
    output_gradient: wgpu::Buffer,
    /// Behind the activation in the plain chain, before it in the fused one.
    gradient: wgpu::Buffer,
    input_gradient: wgpu::Buffer,
    parameter_gradients: [wgpu::Buffer; 2],
}

impl Buffers {
    fn new(context: &Context, inputs: &Inputs) -> Self {
        let gpu = &context.gpu;
        let upload = |values: &Vec<f32>| gpu.upload("fused", values);
        let zeroed = |values: usize| gpu.zeroed("fused", 4 * values as u64);
        let tensor = || zeroed(inputs.rows * WIDTH);
        Self {
            rows: inputs.rows,
            input: upload(&inputs.input),
            weights: inputs.weights.each_ref().map(upload),
            gamma: upload(&inputs.gamma),
            beta: upload(&inputs.beta),
            running: [0.0, 1.0].map(|value| upload(&vec![value; WIDTH])),
            saved: zeroed(4 * WIDTH),
            before: tensor(),
            output: tensor(),
            output_gradient: upload(&inputs.output_gradient),
            gradient: tensor(),
            input_gradient: tensor(),
            parameter_gradients: [(); 2].map(|()| zeroed(WIDTH)),
        }
    }

    fn running(&self) -> RunningStatistics<'_> {
        let [mean, variance] = self.running.each_ref().map(|buffer| buffer.slice(..));
        RunningStatistics { mean, variance, batches_tracked: None }
    }

    /// A kernel of the program's own over all rows; transposed ones are of backward.
    fn own(
        &self,
        context: &Context,
        entry_point: &'static str,
        transposed: bool,
        bindings: &[(u32, &wgpu::Buffer)],
    ) -> Operation {
        let kernel = Kernel { name: entry_point, entry_point, source: include_str!("kernels.wgsl") };
        let bindings: Vec<_> = bindings.iter().map(|&(number, buffer)| (number, buffer.slice(..))).collect();
        let constants = [("transposed", f64::from(u8::from(transposed)))];
        Operation::Own(context.bind_numbered(kernel, &constants, self.rows.div_ceil(ROWS), &bindings))
    }
}

/// The batch norm between the convolutions, on the whole batch.
fn batch_norm(context: &Context, rows: usize) -> Result<(BatchNorm, Plan), Error> {
    let descriptor = BatchNormDescriptor { channels: WIDTH as u32, activation: Activation::Silu, ..Default::default() };
    let bn = BatchNorm::with_kernels(&context.kernels, &descriptor)?;
    let plan = bn.plan(&Shape::new(&[rows, WIDTH])?)?;
    Ok((bn, plan))
}

impl Chain {
    /// Batch norm by the crate's kernels.
    ///
    /// # Errors
    /// What the crate refuses.
    pub fn plain(context: &Context, inputs: &Inputs) -> Result<Self, Error> {
        let buffers = Buffers::new(context, inputs);
        let (bn, plan) = batch_norm(context, inputs.rows)?;
        let zeroed = |size| context.gpu.zeroed("plain", size);
        let [workspace, after, gradient] = [plan.workspace_size(), plan.tensor_size(), plan.tensor_size()].map(zeroed);
        let workspace = workspace.slice(..plan.workspace_size());
        let [first, second] = &buffers.weights;
        let training = TrainingBuffers {
            gamma: Some(buffers.gamma.slice(..)),
            beta: Some(buffers.beta.slice(..)),
            running: Some(buffers.running()),
            saved: Some(buffers.saved.slice(..)),
            ..TrainingBuffers::new(buffers.before.slice(..), after.slice(..), workspace)
        };
        let [gamma_gradient, beta_gradient] =
            buffers.parameter_gradients.each_ref().map(|buffer| Some(Gradient::Overwrite(buffer.slice(..))));
        let backward = BackwardBuffers {
            gamma: training.gamma,
            beta: training.beta,
            saved: training.saved,
            input_gradient: Some(Gradient::Overwrite(gradient.slice(..))),
            gamma_gradient,
            beta_gradient,
            ..BackwardBuffers::new(buffers.before.slice(..), buffers.gradient.slice(..), workspace)
        };
        let multiply = |transposed, input, weight, output| {
            buffers.own(context, "multiply", transposed, &[(0, input), (1, weight), (2, output)])
        };
        let operations = vec![
            multiply(false, &buffers.input, first, &buffers.before),
            Operation::NormTraining(bn.bind_training(&plan, &training)?),
            multiply(false, &after, second, &buffers.output),
            multiply(true, &buffers.output_gradient, second, &buffers.gradient),
            Operation::Norm(bn.bind_backward(&plan, &backward)?),
            multiply(true, &gradient, first, &buffers.input_gradient),
        ];
        Ok(Self { operations, buffers, sums: None })
    }

    /// Batch norm's reductions and maps in the kernels of the convolutions.
    ///
    /// # Errors
    /// What the crate refuses; [`Error::TooManyParts`] where tiles would have to be merged in groups first.
    pub fn fused(context: &Context, inputs: &Inputs) -> Result<Self, Error> {
        let buffers = Buffers::new(context, inputs);
        let (bn, plan) = batch_norm(context, inputs.rows)?;
        // A tile is a part of the batch.
        let parts = inputs.rows.div_ceil(ROWS) as u64;
        let zeroed = |size| context.gpu.zeroed("fused", size);
        let moments = zeroed(parts * plan.part_moments_size());
        let [part_sums, sums] = [parts, 1].map(|parts| zeroed(parts * plan.gradient_sums_size()));
        let [first, second] = &buffers.weights;
        let Buffers { saved, gamma, beta, before, .. } = &buffers;
        let conclude = ConcludeBuffers {
            running: Some(buffers.running()),
            ..ConcludeBuffers::new(moments.slice(..), saved.slice(..))
        };
        let conclude = bn.bind_conclude(&plan, &conclude)?;
        let merge = bn.bind_merge_gradient_sums(&plan, part_sums.slice(..), sums.slice(..))?;
        let own = |name, transposed, bindings: &[_]| buffers.own(context, name, transposed, bindings);
        let operations = vec![
            own("multiply_and_take_moments", false, &[(0, &buffers.input), (1, first), (2, before), (3, &moments)]),
            Operation::NormTraining(conclude),
            own(
                "normalise_and_multiply",
                false,
                &[(0, before), (1, second), (2, &buffers.output), (4, saved), (5, gamma), (6, beta)],
            ),
            own(
                "multiply_and_take_gradient_sums",
                true,
                &[
                    (0, &buffers.output_gradient),
                    (1, second),
                    (2, &buffers.gradient),
                    (4, saved),
                    (5, gamma),
                    (6, beta),
                    (7, before),
                    (8, &part_sums),
                ],
            ),
            Operation::Norm(merge),
            own(
                "input_gradient_and_multiply",
                true,
                &[
                    (0, &buffers.gradient),
                    (1, first),
                    (2, &buffers.input_gradient),
                    (4, saved),
                    (5, gamma),
                    (7, before),
                    (9, &sums),
                ],
            ),
        ];
        Ok(Self { operations, buffers, sums: Some(sums) })
    }

    pub fn submit(&self, context: &Context) {
        context.gpu.submit(|pass| {
            for operation in &self.operations {
                match operation {
                    Operation::Own(dispatch) => dispatch.record(pass),
                    Operation::Norm(step) => step.record(pass),
                    Operation::NormTraining(step) => step.record(pass),
                }
            }
        });
    }

    /// Runs it once and reads what came of it.
    pub fn run(&self, context: &Context) -> Outputs {
        self.submit(context);
        let read = |buffer: &wgpu::Buffer, count| context.gpu.read::<f32>(buffer, count);
        let elements = self.buffers.rows * WIDTH;
        let [gamma_gradient, beta_gradient] = match &self.sums {
            Some(sums) => {
                let sums: Vec<ChannelGradientSums> = context.gpu.read(sums, WIDTH);
                [sums.iter().map(|sums| sums.product).collect(), sums.iter().map(|sums| sums.sum).collect()]
            }
            None => self.buffers.parameter_gradients.each_ref().map(|buffer| read(buffer, WIDTH)),
        };
        let [mean, variance] = self.buffers.running.each_ref().map(|buffer| read(buffer, WIDTH));
        vec![
            ("the output", read(&self.buffers.output, elements)),
            ("the gradient of the input", read(&self.buffers.input_gradient, elements)),
            ("the gradient of gamma", gamma_gradient),
            ("the gradient of beta", beta_gradient),
            ("the running mean", mean),
            ("the running variance", variance),
        ]
    }
}
