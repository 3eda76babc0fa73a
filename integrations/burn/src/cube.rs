//! The operations on Burn's wgpu backend: its tensors' buffers, this repository's kernels.

use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use wgpu_batch_norm::wgpu::{self, BufferSlice};
use wgpu_batch_norm::{
    ActivationState, BackwardBuffers, FrozenBackwardBuffers, Gradient, InferenceBuffers, PartBuffers,
    RunningStatistics, TrainingBuffers,
};

use crate::connection::engine_of;
use crate::engine::Planned;
use crate::memory::{Held, Order, empty, empty_like};
use crate::ops::{BackwardInputs, BatchNormOps, InputGradients, Inputs, Optional, Statistics, Trained};
use crate::ranks::Way;
use crate::settings::Settings;
use crate::{Activation, Unserved};

impl BatchNormOps for CubeBackend {
    fn wgpu_batch_norm_training(inputs: Inputs<Self>, settings: Settings) -> Trained<Self> {
        expect(train(inputs, &settings))
    }

    fn wgpu_batch_norm_inference(inputs: Inputs<Self>, settings: Settings) -> CubeTensor {
        expect(infer(inputs, &settings))
    }

    fn wgpu_batch_norm_backward(
        inputs: BackwardInputs<Self>,
        settings: Settings,
        residual: bool,
    ) -> InputGradients<Self> {
        expect(backward(inputs, &settings, residual))
    }
}

/// The module asks for a plan first, so what is left is memory that runs out and a device that is lost. Burn's operations have
/// no way to return that either.
fn expect<T>(result: Result<T, Unserved>) -> T {
    result.unwrap_or_else(|error| panic!("batch norm on Burn's wgpu device: {error}"))
}

/// Runs on the thread of Burn's runtime, so that it is waited for once a step and not once a buffer.
fn on_device(tensor: &CubeTensor, task: impl FnOnce() -> Result<(), Unserved> + Send) -> Result<(), Unserved> {
    let client = tensor.client.clone();
    client.exclusive(task).unwrap_or_else(|error| Err(Unserved::Runtime { reason: error.to_string() }))
}

fn train(inputs: Inputs<CubeBackend>, settings: &Settings) -> Result<Trained<CubeBackend>, Unserved> {
    let engine = engine_of(&inputs.input.device)?;
    let (input, order) = Order::settle(inputs.input);
    let residual = arranged(inputs.residual, order);
    let [gamma, beta] = [inputs.gamma, inputs.beta].map(into_contiguous);
    // Kernels update in place, but Burn's modules may still hold the old values.
    let running_mean = inputs.running_mean.copy();
    let running_variance = inputs.running_variance.copy();
    let output = empty_like(&input);
    let records = || empty(&gamma, [input.shape()[1], 4]);
    let (saved, moments) = (records(), settings.synchronised.as_ref().map(|_| records()));
    let Planned { norm, plan } = engine.plan(&input.shape(), input.dtype, order, settings)?;
    let (tensor, values) = (plan.tensor_size(), plan.vector_size());
    // Whose records, and where they are kept for backward: of a batch over ranks.
    let normalize = |parts: Option<(&wgpu::Buffer, &CubeTensor)>| {
        let [x, y, gamma, beta] = hold([&input, &output, &gamma, &beta])?;
        let [mean, variance, statistics] = hold([&running_mean, &running_variance, &saved])?;
        let residual = residual.as_ref().map(Held::new).transpose()?;
        let workspace = engine.workspace(plan.workspace_size());
        let buffers = TrainingBuffers {
            residual: slice(residual.as_ref(), tensor),
            gamma: Some(gamma.slice(values)),
            beta: Some(beta.slice(values)),
            running: Some(RunningStatistics {
                mean: mean.slice(values),
                variance: variance.slice(values),
                batches_tracked: None,
            }),
            saved: Some(statistics.slice(plan.saved_size())),
            ..TrainingBuffers::new(x.slice(tensor), y.slice(tensor), workspace.slice(..))
        };
        let Some((records, kept)) = parts else {
            let step = norm.bind_training(&plan, &buffers)?;
            engine.submit(|encoder| step.record_into(encoder));
            return Ok(());
        };
        let step = norm.bind_training_from_parts(&plan, records.slice(..), &buffers)?;
        let kept = Held::new(kept)?;
        engine.submit(|encoder| {
            step.record_into(encoder);
            kept.copy_from(records, plan.part_moments_size(), encoder);
        });
        Ok(())
    };
    match (&settings.synchronised, &moments) {
        (Some(ranks), Some(kept)) => {
            let measure = |way: &mut Way| {
                on_device(&input, || {
                    let [x] = hold([&input])?;
                    let workspace = engine.workspace(plan.workspace_size());
                    let buffers = PartBuffers::new(x.slice(tensor), way.records.slice(..), workspace.slice(..));
                    let step = norm.bind_part_moments(&plan, &buffers)?;
                    way.submit(&engine, |encoder| step.record_into(encoder))
                })
            };
            let normalize = |way: &Way| on_device(&input, || normalize(Some((&way.records, kept))));
            ranks.exchange(&engine, &plan, |layer| &mut layer.moments, measure, normalize)?;
        }
        _ => on_device(&input, || normalize(None))?,
    }
    let moments = moments.map_or(Optional::Absent, Optional::Present);
    Ok(Trained { output, running_mean, running_variance, saved, moments })
}

fn infer(inputs: Inputs<CubeBackend>, settings: &Settings) -> Result<CubeTensor, Unserved> {
    let engine = engine_of(&inputs.input.device)?;
    let (input, order) = Order::settle(inputs.input);
    let residual = arranged(inputs.residual, order);
    let [gamma, beta] = [inputs.gamma, inputs.beta].map(into_contiguous);
    let [mean, variance] = [inputs.running_mean, inputs.running_variance].map(into_contiguous);
    let output = if input.can_mut() { input.clone() } else { empty_like(&input) };
    on_device(&input, || {
        let planned = engine.plan(&input.shape(), input.dtype, order, settings)?;
        let plan = &planned.plan;
        let (tensor, values) = (plan.tensor_size(), plan.vector_size());
        let [x, y, gamma, beta, mean, variance] = hold([&input, &output, &gamma, &beta, &mean, &variance])?;
        let residual = residual.as_ref().map(Held::new).transpose()?;
        let step = planned.norm.bind_inference(
            plan,
            &InferenceBuffers {
                residual: slice(residual.as_ref(), tensor),
                gamma: Some(gamma.slice(values)),
                beta: Some(beta.slice(values)),
                ..InferenceBuffers::new(x.slice(tensor), y.slice(tensor), mean.slice(values), variance.slice(values))
            },
        )?;
        engine.submit(|encoder| step.record_into(encoder));
        Ok(())
    })?;
    Ok(output)
}

fn backward(
    inputs: BackwardInputs<CubeBackend>,
    settings: &Settings,
    residual: bool,
) -> Result<InputGradients<CubeBackend>, Unserved> {
    let engine = engine_of(&inputs.input.device)?;
    let (input, order) = Order::settle(inputs.input);
    let output_gradient = order.arrange(inputs.output_gradient);
    let companion = arranged(inputs.companion, order);
    let [gamma, beta] = [inputs.gamma, inputs.beta].map(into_contiguous);
    let statistics: Statistics<CubeBackend> = match inputs.statistics {
        Statistics::Batch(saved) => Statistics::Batch(into_contiguous(saved)),
        Statistics::Ranks { saved, moments } => {
            Statistics::Ranks { saved: into_contiguous(saved), moments: into_contiguous(moments) }
        }
        Statistics::Running { mean, variance } => {
            Statistics::Running { mean: into_contiguous(mean), variance: into_contiguous(variance) }
        }
    };
    let in_place = output_gradient.can_mut();
    let input_gradient = if in_place { output_gradient.clone() } else { empty_like(&input) };
    let residual_gradient = residual.then(|| empty_like(&input));
    let [gamma_gradient, beta_gradient] = [&gamma, &beta].map(empty_like);
    let Planned { norm, plan } = engine.plan(&input.shape(), input.dtype, order, settings)?;
    let (tensor, values) = (plan.tensor_size(), plan.vector_size());
    // Of a batch over ranks, before or after gradient sums are exchanged.
    let step = |parts: Option<Half<'_>>| {
        let [x, dy, dx] = hold([&input, &output_gradient, &input_gradient])?;
        let [gamma, beta, dgamma, dbeta] = hold([&gamma, &beta, &gamma_gradient, &beta_gradient])?;
        let companion = companion.as_ref().map(Held::new).transpose()?;
        let dz = residual_gradient.as_ref().map(Held::new).transpose()?;
        let workspace = engine.workspace(plan.workspace_size());
        let activation = activation(settings.activation, slice(companion.as_ref(), tensor));
        let [input_gradient, gamma_gradient, beta_gradient] =
            [dx.slice(tensor), dgamma.slice(values), dbeta.slice(values)].map(|slice| Some(Gradient::Overwrite(slice)));
        let residual_gradient = slice(dz.as_ref(), tensor).map(Gradient::Overwrite);
        let step = match &statistics {
            Statistics::Batch(saved) | Statistics::Ranks { saved, .. } => {
                let saved = Held::new(saved)?;
                let buffers = BackwardBuffers {
                    gamma: Some(gamma.slice(values)),
                    beta: Some(beta.slice(values)),
                    activation,
                    saved: Some(saved.slice(plan.saved_size())),
                    input_gradient,
                    residual_gradient,
                    gamma_gradient,
                    beta_gradient,
                    ..BackwardBuffers::new(x.slice(tensor), dy.slice(tensor), workspace.slice(..))
                };
                match parts {
                    None => norm.bind_backward(&plan, &buffers)?,
                    Some(Half::Sums(way)) => {
                        let own = BackwardBuffers { input_gradient: None, residual_gradient: None, ..buffers };
                        let step = norm.bind_part_gradients(&plan, way.records.slice(..), &own)?;
                        return way.submit(&engine, |encoder| step.record_into(encoder));
                    }
                    Some(Half::Gradients { sums, moments }) => {
                        let moments = Held::new(moments)?;
                        let moments = moments.slice(plan.part_moments_size());
                        norm.bind_backward_from_parts(&plan, sums.slice(..), moments, &buffers)?
                    }
                }
            }
            Statistics::Running { mean, variance } => {
                let [mean, variance] = hold([mean, variance])?;
                norm.bind_backward_frozen(
                    &plan,
                    &FrozenBackwardBuffers {
                        input: Some(x.slice(tensor)),
                        gamma: Some(gamma.slice(values)),
                        beta: Some(beta.slice(values)),
                        activation,
                        input_gradient,
                        residual_gradient,
                        gamma_gradient,
                        beta_gradient,
                        ..FrozenBackwardBuffers::new(
                            dy.slice(tensor),
                            mean.slice(values),
                            variance.slice(values),
                            workspace.slice(..),
                        )
                    },
                )?
            }
        };
        engine.submit(|encoder| step.record_into(encoder));
        Ok(())
    };
    match (&settings.synchronised, &statistics) {
        (Some(ranks), Statistics::Ranks { moments, .. }) => {
            let add_up = |way: &mut Way| on_device(&input, || step(Some(Half::Sums(way))));
            let map = |way: &Way| on_device(&input, || step(Some(Half::Gradients { sums: &way.records, moments })));
            ranks.exchange(&engine, &plan, |layer| &mut layer.sums, add_up, map)?;
        }
        _ => on_device(&input, || step(None))?,
    }
    Ok(InputGradients {
        input: input_gradient,
        residual: residual_gradient.map_or(Optional::Absent, Optional::Present),
        gamma: gamma_gradient,
        beta: beta_gradient,
    })
}

/// A half of the backward of a batch over ranks.
enum Half<'a> {
    /// Up to this rank's gradient sums.
    Sums(&'a mut Way),
    /// From those of all ranks.
    Gradients { sums: &'a wgpu::Buffer, moments: &'a CubeTensor },
}

fn activation<'a>(activation: Activation, companion: Option<BufferSlice<'a>>) -> ActivationState<'a> {
    match companion {
        Some(output) if activation.follows_from_output() => ActivationState::Output(output),
        residual => ActivationState::Recompute { residual },
    }
}

fn arranged(tensor: Optional<CubeBackend>, order: Order) -> Option<CubeTensor> {
    match tensor {
        Optional::Present(tensor) => Some(order.arrange(tensor)),
        Optional::Absent => None,
    }
}

fn hold<const N: usize>(tensors: [&CubeTensor; N]) -> Result<[Held; N], Unserved> {
    let held = tensors.into_iter().map(Held::new).collect::<Result<Vec<_>, _>>()?;
    held.try_into().map_err(|_| Unserved::Runtime { reason: "a buffer is missing".into() })
}

fn slice(held: Option<&Held>, size: u64) -> Option<BufferSlice<'_>> {
    held.map(|held| held.slice(size))
}
