//! A case on a device, and how far it is from the truth.

use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, ChannelStatistics, ElementType, Error, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, Kernels, PartBuffers, Plan, RunningStatistics, TrainingBuffers, wgpu,
};

use super::super::support::Gpu;
use super::measure::{tensor_error, vector_error};
use super::truth::Truth;
use super::{Case, Data, Errors, Quantity, SAMPLES, Variant};

/// Samples of each part.
const PARTS: [u64; 4] = [3, 0, 1, 4];

/// Everything a device made of a case; what a variant does not have is empty.
#[derive(Default)]
struct Outcome {
    y: Vec<f32>,
    saved: Vec<ChannelStatistics>,
    running: [Vec<f32>; 2],
    dx: Vec<f32>,
    gradients: [Vec<f32>; 2],
    inference: Vec<f32>,
    frozen_dx: Vec<f32>,
    frozen_gradients: [Vec<f32>; 2],
}

/// Runs a case, and says how far off each result is.
pub fn errors_of(gpu: &Gpu, kernels: &Kernels, case: &Case, data: &Data) -> Result<Errors, Error> {
    let windows = case.elements() as u64 * case.element.size() / 5;
    let kernels = if case.variant == Variant::Windows { &kernels.with_max_window_size(windows) } else { kernels };
    let bn = BatchNorm::with_kernels(kernels, &case.descriptor())?;
    let run = Run { gpu, case, data, bn };
    let got = if case.variant == Variant::Parts { run.in_parts()? } else { run.whole()? };
    compare(case, data, &got)
}

fn compare(case: &Case, data: &Data, got: &Outcome) -> Result<Errors, Error> {
    let truth = Truth::new(case, data)?;
    let mut errors = Errors::default();
    let [absolute, frozen_absolute] = truth.scales();
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();

    let (y, statistics) = truth.training()?;
    errors.set(Quantity::Y, tensor_error(case, Quantity::Y, &got.y, &y));
    drop(y);
    let mean: Vec<f64> = got.saved.iter().map(|saved| f64::from(saved.pivot) + f64::from(saved.offset)).collect();
    let inverse: Vec<f64> = got.saved.iter().map(|saved| f64::from(saved.inverse_deviation)).collect();
    let deviation: Vec<f64> = statistics.inverse_deviation.iter().map(|inverse| 1.0 / inverse).collect();
    let running = got.running.each_ref().map(|values| wide(values));
    for (quantity, got, truth, scale) in [
        (Quantity::Mean, &mean, &statistics.mean, &deviation),
        (Quantity::InverseDeviation, &inverse, &statistics.inverse_deviation, &statistics.inverse_deviation),
        (Quantity::RunningMean, &running[0], &statistics.running_mean, &statistics.running_mean),
        (Quantity::RunningVariance, &running[1], &statistics.running_variance, &statistics.running_variance),
    ] {
        let scale: Vec<f64> = scale.iter().map(|scale| scale.abs()).collect();
        errors.set(quantity, vector_error(case, quantity, got, truth, &scale));
    }
    if !got.inference.is_empty() {
        let error = tensor_error(case, Quantity::Inference, &got.inference, &truth.inference()?);
        errors.set(Quantity::Inference, error);
    }
    for (frozen, dx, gradients, quantities) in [
        (false, &got.dx, &got.gradients, [Quantity::Dx, Quantity::GammaGradient, Quantity::BetaGradient]),
        (
            true,
            &got.frozen_dx,
            &got.frozen_gradients,
            [Quantity::FrozenDx, Quantity::FrozenGammaGradient, Quantity::FrozenBetaGradient],
        ),
    ] {
        if dx.is_empty() {
            continue;
        }
        let (truth_dx, truth_gradients) = truth.backward(frozen)?;
        let [of_dx, of_gamma, of_beta] = quantities;
        errors.set(of_dx, tensor_error(case, of_dx, dx, &truth_dx));
        let scale_of_gamma = if frozen { &frozen_absolute } else { &absolute };
        for (quantity, got, truth, scale) in [
            (of_gamma, &gradients[0], &truth_gradients[0], scale_of_gamma),
            (of_beta, &gradients[1], &truth_gradients[1], &absolute),
        ] {
            errors.set(quantity, vector_error(case, quantity, &wide(got), truth, scale));
        }
    }
    Ok(errors)
}

/// A case on a device.
struct Run<'a> {
    gpu: &'a Gpu,
    case: &'a Case,
    data: &'a Data,
    bn: BatchNorm,
}

/// γ, β, the running statistics that training updates, those that inference reads, and dγ and dβ, zero.
struct Vectors {
    gamma: wgpu::Buffer,
    beta: wgpu::Buffer,
    updated: [wgpu::Buffer; 2],
    recorded: [wgpu::Buffer; 2],
    gradients: [wgpu::Buffer; 2],
    frozen_gradients: [wgpu::Buffer; 2],
}

impl Vectors {
    fn running(&self, plan: &Plan) -> RunningStatistics<'_> {
        let [mean, variance] = self.updated.each_ref().map(|buffer| buffer.slice(..plan.running_size()));
        RunningStatistics { mean, variance, batches_tracked: None }
    }
}

impl Run<'_> {
    fn upload(&self, label: &str, values: &[f32]) -> wgpu::Buffer {
        match self.case.element {
            ElementType::F16 => {
                self.gpu.upload(label, &values.iter().map(|value| half::f16::from_f32(*value)).collect::<Vec<_>>())
            }
            ElementType::Bf16 => {
                self.gpu.upload(label, &values.iter().map(|value| half::bf16::from_f32(*value)).collect::<Vec<_>>())
            }
            _ => self.gpu.upload(label, values),
        }
    }

    fn read(&self, buffer: &wgpu::Buffer, count: usize) -> Vec<f32> {
        match self.case.element {
            ElementType::F16 => self.gpu.read::<half::f16>(buffer, count).into_iter().map(f32::from).collect(),
            ElementType::Bf16 => self.gpu.read::<half::bf16>(buffer, count).into_iter().map(f32::from).collect(),
            _ => self.gpu.read(buffer, count),
        }
    }

    fn vectors(&self) -> Vectors {
        let (gpu, data) = (self.gpu, self.data);
        let running = || [gpu.upload("mean", &data.running_mean), gpu.upload("variance", &data.running_variance)];
        let zeros = || [(); 2].map(|()| gpu.zeroed("gradient", 4 * self.case.channels() as u64));
        Vectors {
            gamma: gpu.upload("gamma", &data.gamma),
            beta: gpu.upload("beta", &data.beta),
            updated: running(),
            recorded: running(),
            gradients: zeros(),
            frozen_gradients: zeros(),
        }
    }

    fn read_vectors(&self, buffers: &[wgpu::Buffer; 2]) -> [Vec<f32>; 2] {
        buffers.each_ref().map(|buffer| self.gpu.read(buffer, self.case.channels()))
    }

    /// Every operation on one tensor, as it is or in windows. Sub-batches share running statistics, so those operations that
    /// use what is recorded are none of theirs.
    fn whole(&self) -> Result<Outcome, Error> {
        let (gpu, bn, vectors) = (self.gpu, &self.bn, self.vectors());
        let plan = bn.plan(&self.case.shape()?)?;
        let (x, g) = (self.upload("x", &self.data.x), self.upload("g", &self.data.g));
        let [y, dx] = ["y", "dx"].map(|label| gpu.zeroed(label, plan.tensor_size()));
        let saved = gpu.zeroed("saved", plan.saved_size());
        let workspace = gpu.zeroed("workspace", plan.workspace_size());
        let (tensor, vector) = (..plan.tensor_size(), ..plan.vector_size());
        let (gamma, beta) = (Some(vectors.gamma.slice(vector)), Some(vectors.beta.slice(vector)));
        let slice = |buffer| wgpu::Buffer::slice(buffer, vector);
        let training = bn.bind_training(
            &plan,
            &TrainingBuffers {
                gamma,
                beta,
                running: Some(vectors.running(&plan)),
                saved: Some(saved.slice(..plan.saved_size())),
                ..TrainingBuffers::new(x.slice(tensor), y.slice(tensor), workspace.slice(..))
            },
        )?;
        let [dgamma, dbeta] = vectors.gradients.each_ref().map(|buffer| Some(Gradient::Overwrite(slice(buffer))));
        let backward = bn.bind_backward(
            &plan,
            &BackwardBuffers {
                gamma,
                beta,
                saved: Some(saved.slice(..plan.saved_size())),
                input_gradient: Some(Gradient::Overwrite(dx.slice(tensor))),
                gamma_gradient: dgamma,
                beta_gradient: dbeta,
                ..BackwardBuffers::new(x.slice(tensor), g.slice(tensor), workspace.slice(..))
            },
        )?;
        gpu.submit(|pass| {
            training.record(pass);
            backward.record(pass);
        });
        let elements = self.case.elements();
        let mut outcome = Outcome {
            y: self.read(&y, elements),
            saved: gpu.read(&saved, self.case.segments() * self.case.channels()),
            running: self.read_vectors(&vectors.updated),
            dx: self.read(&dx, elements),
            gradients: self.read_vectors(&vectors.gradients),
            ..Outcome::default()
        };
        if self.case.variant == Variant::Segments {
            return Ok(outcome);
        }
        let [mean, variance] = vectors.recorded.each_ref().map(slice);
        let inference =
            InferenceBuffers { gamma, beta, ..InferenceBuffers::new(x.slice(tensor), y.slice(tensor), mean, variance) };
        let inference = bn.bind_inference(&plan, &inference)?;
        let [dgamma, dbeta] =
            vectors.frozen_gradients.each_ref().map(|buffer| Some(Gradient::Overwrite(slice(buffer))));
        let frozen = bn.bind_backward_frozen(
            &plan,
            &FrozenBackwardBuffers {
                input: Some(x.slice(tensor)),
                gamma,
                beta,
                input_gradient: Some(Gradient::Overwrite(dx.slice(tensor))),
                gamma_gradient: dgamma,
                beta_gradient: dbeta,
                ..FrozenBackwardBuffers::new(g.slice(tensor), mean, variance, workspace.slice(..))
            },
        )?;
        gpu.submit(|pass| {
            inference.record(pass);
            frozen.record(pass);
        });
        outcome.inference = self.read(&y, elements);
        outcome.frozen_dx = self.read(&dx, elements);
        outcome.frozen_gradients = self.read_vectors(&vectors.frozen_gradients);
        Ok(outcome)
    }

    /// Training and backward of one batch in several buffers. dγ and dβ add up over parts.
    fn in_parts(&self) -> Result<Outcome, Error> {
        let (gpu, bn, vectors) = (self.gpu, &self.bn, self.vectors());
        let sample = self.case.elements() / SAMPLES as usize;
        let mut first = 0;
        let parts = PARTS.map(|samples| {
            let range = first * sample..(first + samples as usize) * sample;
            first += samples as usize;
            (samples, range)
        });
        let plans = parts.each_ref().map(|(samples, _)| self.case.shape_of(*samples).and_then(|shape| bn.plan(&shape)));
        let plans = plans.into_iter().collect::<Result<Vec<_>, _>>()?;
        let tensor =
            |label, values: &[f32]| parts.each_ref().map(|(_, range)| self.upload(label, &values[range.clone()]));
        let (x, g) = (tensor("x", &self.data.x), tensor("g", &self.data.g));
        let sized = |label| plans.iter().map(|plan| gpu.zeroed(label, plan.tensor_size())).collect::<Vec<_>>();
        let (y, dx) = (sized("y"), sized("dx"));
        let workspace = plans.iter().map(Plan::workspace_size).max().unwrap_or(0);
        let workspace = gpu.zeroed("workspace", workspace);
        let plan = &plans[0];
        let (moments_size, sums_size) = (plan.part_moments_size(), plan.gradient_sums_size());
        let count = PARTS.len() as u64;
        let [own_moments, all_moments] = [moments_size, count * moments_size].map(|size| gpu.zeroed("moments", size));
        let [own_sums, all_sums] = [sums_size, count * sums_size].map(|size| gpu.zeroed("sums", size));
        let saved = gpu.zeroed("saved", plan.saved_size());
        let vector = ..plan.vector_size();
        let (gamma, beta) = (Some(vectors.gamma.slice(vector)), Some(vectors.beta.slice(vector)));
        // Records stand side by side, part after part.
        let gather = |own: &wgpu::Buffer, all: &wgpu::Buffer, part: usize, size: u64| {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(own, 0, all, part as u64 * size, size);
            gpu.queue.submit([encoder.finish()]);
        };
        for (part, plan) in plans.iter().enumerate() {
            let moments = own_moments.slice(..moments_size);
            let buffers = PartBuffers::new(x[part].slice(..plan.tensor_size()), moments, workspace.slice(..));
            let step = bn.bind_part_moments(plan, &buffers)?;
            gpu.submit(|pass| step.record(pass));
            gather(&own_moments, &all_moments, part, moments_size);
        }
        for (part, plan) in plans.iter().enumerate() {
            let tensor = ..plan.tensor_size();
            let buffers = TrainingBuffers {
                gamma,
                beta,
                running: Some(vectors.running(plan)),
                saved: Some(saved.slice(..plan.saved_size())),
                ..TrainingBuffers::new(x[part].slice(tensor), y[part].slice(tensor), workspace.slice(..))
            };
            let step = bn.bind_training_from_parts(plan, all_moments.slice(..count * moments_size), &buffers)?;
            gpu.submit(|pass| if part == 0 { step.record(pass) } else { step.record_without_running_update(pass) });
        }
        let gradients = vectors.gradients.each_ref().map(|buffer| Some(Gradient::Accumulate(buffer.slice(vector))));
        let buffers_of = |part: usize| {
            let tensor = ..plans[part].tensor_size();
            let [gamma_gradient, beta_gradient] = gradients;
            BackwardBuffers {
                gamma,
                beta,
                saved: Some(saved.slice(..plan.saved_size())),
                input_gradient: Some(Gradient::Overwrite(dx[part].slice(tensor))),
                gamma_gradient,
                beta_gradient,
                ..BackwardBuffers::new(x[part].slice(tensor), g[part].slice(tensor), workspace.slice(..))
            }
        };
        for (part, plan) in plans.iter().enumerate() {
            let step = bn.bind_part_gradients(plan, own_sums.slice(..sums_size), &buffers_of(part))?;
            gpu.submit(|pass| step.record(pass));
            gather(&own_sums, &all_sums, part, sums_size);
        }
        let (sums, moments) = (all_sums.slice(..count * sums_size), all_moments.slice(..count * moments_size));
        for (part, plan) in plans.iter().enumerate() {
            let step = bn.bind_backward_from_parts(plan, sums, moments, &buffers_of(part))?;
            gpu.submit(|pass| step.record(pass));
        }
        let read = |buffers: &[wgpu::Buffer]| {
            let parts = buffers.iter().zip(&parts).map(|(buffer, (_, range))| self.read(buffer, range.len()));
            parts.collect::<Vec<_>>().concat()
        };
        Ok(Outcome {
            y: read(&y),
            saved: gpu.read(&saved, self.case.channels()),
            running: self.read_vectors(&vectors.updated),
            dx: read(&dx),
            gradients: self.read_vectors(&vectors.gradients),
            ..Outcome::default()
        })
    }
}
