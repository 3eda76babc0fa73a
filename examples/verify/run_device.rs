//! Runs a case on a device: all its operations in one submission, then reads everything back.

use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{Buffer, BufferSlice, ComputePass};
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, ChannelStatistics, Error, FrozenBackwardBuffers, Gradient, InferenceBuffers, Kernels,
    Plan, RunningStatistics, TrainingBuffers, wgpu,
};

use crate::case::Case;
use crate::results::{RECOMPUTED, Results};
use crate::support::Gpu;

/// The bits of everything that a step must write, before it runs: a NaN that arithmetic does not give, as it is
/// signalling and its payload is arbitrary.
const POISON: u32 = 0x7FA5_C3E1;

/// The words of one [`ChannelStatistics`].
const STATISTICS_WORDS: usize = size_of::<ChannelStatistics>() / size_of::<u32>();

/// A device with its kernels.
pub struct Runner {
    gpu: Gpu,
    kernels: Kernels,
    /// What the device reported outside of any call.
    errors: Arc<Mutex<Vec<String>>>,
}

/// A buffer that holds exactly `words` values from its start on.
struct Words {
    buffer: Buffer,
    words: usize,
}

impl Words {
    fn slice(&self) -> BufferSlice<'_> {
        self.buffer.slice(..(self.words * size_of::<u32>()) as u64)
    }
}

/// A result to be read back.
struct Output {
    tensor: &'static str,
    variant: &'static str,
    words: Words,
}

/// The case's inputs on the device.
struct Inputs {
    x: Words,
    dy: Words,
    weight: Option<Words>,
    bias: Option<Words>,
    workspace: Words,
}

/// Records one step into a pass.
type RecordStep = Box<dyn Fn(&mut ComputePass<'_>)>;

/// The steps of a case in order and what is to be read after them.
#[derive(Default)]
struct Work {
    steps: Vec<RecordStep>,
    outputs: Vec<Output>,
    saved: Option<Words>,
    running: Option<[Words; 2]>,
    tracked: Option<Words>,
}

impl Runner {
    pub fn new(gpu: Gpu) -> Self {
        let errors = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&errors);
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
        }));
        let kernels = Kernels::new(&gpu.device);
        Self { gpu, kernels, errors }
    }

    pub fn name(&self) -> String {
        self.gpu.to_string()
    }

    /// Computes everything that the case can be checked with.
    ///
    /// # Errors
    /// What the library refuses.
    pub fn run(&self, case: &Case) -> Result<Results, Error> {
        self.take_errors();
        let batch_norm = BatchNorm::with_kernels(&self.kernels, &case.descriptor)?;
        let plan = batch_norm.plan(&case.shape)?;
        let inputs = Inputs {
            x: self.upload("x", &case.x),
            dy: self.upload("dy", case.dy.as_deref().unwrap_or_default()),
            weight: case.weight.as_ref().map(|values| self.upload("weight", values)),
            bias: case.bias.as_ref().map(|values| self.upload("bias", values)),
            workspace: self.workspace(&plan),
        };
        let mut work = Work::default();
        if let Some(given) = &case.given_statistics {
            let fields =
                |saved: &ChannelStatistics| [saved.pivot, saved.offset, saved.inverse_deviation, saved.variance];
            work.saved = Some(self.upload("saved", &given.iter().flat_map(fields).collect::<Vec<_>>()));
        }
        if case.runs_forward_training() {
            self.bind_training(case, &batch_norm, &plan, &inputs, &mut work)?;
        }
        if case.operations.backward_training {
            self.bind_backward(case, &batch_norm, &plan, &inputs, (true, ""), &mut work)?;
            if case.given_statistics.is_none() {
                self.bind_backward(case, &batch_norm, &plan, &inputs, (false, RECOMPUTED), &mut work)?;
            }
        }
        if case.operations.forward_inference || case.operations.backward_inference {
            self.bind_frozen(case, &batch_norm, &plan, &inputs, &mut work)?;
        }
        self.gpu.submit(|pass| work.steps.iter().for_each(|step| step(pass)));
        let mut results = self.read_results(case, &work);
        results.problems.extend(self.take_errors());
        Ok(results)
    }

    fn bind_training(
        &self,
        case: &Case,
        batch_norm: &BatchNorm,
        plan: &Plan,
        inputs: &Inputs,
        work: &mut Work,
    ) -> Result<(), Error> {
        let y = self.poisoned("y", case.x.len());
        let saved = self.poisoned("saved", case.problem.channels as usize * STATISTICS_WORDS);
        work.running = case
            .running
            .as_ref()
            .map(|(mean, variance)| [self.upload("running mean", mean), self.upload("running variance", variance)]);
        work.tracked =
            case.batches_tracked.map(|count| Words { buffer: self.gpu.upload("batches tracked", &[count]), words: 1 });
        let step = batch_norm.bind_training(
            plan,
            &TrainingBuffers {
                input: inputs.x.slice(),
                output: y.slice(),
                gamma: inputs.weight.as_ref().map(Words::slice),
                beta: inputs.bias.as_ref().map(Words::slice),
                running: work.running.as_ref().map(|[mean, variance]| RunningStatistics {
                    mean: mean.slice(),
                    variance: variance.slice(),
                    batches_tracked: work.tracked.as_ref().map(Words::slice),
                }),
                saved: Some(saved.slice()),
                workspace: inputs.workspace.slice(),
            },
        )?;
        work.steps.push(Box::new(move |pass| step.record(pass)));
        work.outputs.push(Output { tensor: "y", variant: "", words: y });
        work.saved = Some(saved);
        Ok(())
    }

    /// Backward through training statistics, saved ones or those of x.
    fn bind_backward(
        &self,
        case: &Case,
        batch_norm: &BatchNorm,
        plan: &Plan,
        inputs: &Inputs,
        (with_saved, variant): (bool, &'static str),
        work: &mut Work,
    ) -> Result<(), Error> {
        let gradients = self.gradients(case);
        let [input_gradient, gamma_gradient, beta_gradient] = gradients.each_ref().map(overwrite);
        let step = batch_norm.bind_backward(
            plan,
            &BackwardBuffers {
                input: inputs.x.slice(),
                output_gradient: inputs.dy.slice(),
                gamma: inputs.weight.as_ref().map(Words::slice),
                saved: work.saved.as_ref().filter(|_| with_saved).map(Words::slice),
                input_gradient,
                gamma_gradient,
                beta_gradient,
                workspace: inputs.workspace.slice(),
            },
        )?;
        work.steps.push(Box::new(move |pass| step.record(pass)));
        work.push_gradients(gradients, variant);
        Ok(())
    }

    /// Inference and backward through the running statistics.
    fn bind_frozen(
        &self,
        case: &Case,
        batch_norm: &BatchNorm,
        plan: &Plan,
        inputs: &Inputs,
        work: &mut Work,
    ) -> Result<(), Error> {
        let Some((mean, variance)) = &case.running else { return Ok(()) };
        let (mean, variance) = (self.upload("running mean", mean), self.upload("running variance", variance));
        let gamma = inputs.weight.as_ref().map(Words::slice);
        if case.operations.forward_inference {
            let y = self.poisoned("y", case.x.len());
            let buffers = InferenceBuffers {
                input: inputs.x.slice(),
                output: y.slice(),
                gamma,
                beta: inputs.bias.as_ref().map(Words::slice),
                running_mean: mean.slice(),
                running_variance: variance.slice(),
            };
            let step = batch_norm.bind_inference(plan, &buffers)?;
            work.steps.push(Box::new(move |pass| step.record(pass)));
            work.outputs.push(Output { tensor: "y", variant: "", words: y });
        }
        if case.operations.backward_inference {
            let gradients = self.gradients(case);
            let [input_gradient, gamma_gradient, beta_gradient] = gradients.each_ref().map(overwrite);
            let buffers = FrozenBackwardBuffers {
                input: Some(inputs.x.slice()),
                output_gradient: inputs.dy.slice(),
                gamma,
                running_mean: mean.slice(),
                running_variance: variance.slice(),
                input_gradient,
                gamma_gradient,
                beta_gradient,
                workspace: inputs.workspace.slice(),
            };
            let step = batch_norm.bind_backward_frozen(plan, &buffers)?;
            work.steps.push(Box::new(move |pass| step.record(pass)));
            work.push_gradients(gradients, "");
        }
        Ok(())
    }

    fn read_results(&self, case: &Case, work: &Work) -> Results {
        let mut results = Results::default();
        let empty = case.problem.count() == 0;
        for Output { tensor, variant, words } in &work.outputs {
            let values = self.read(&format!("{tensor}{variant}"), words, &mut results);
            results.push(tensor, variant, values);
        }
        // An empty batch saves nothing.
        if let (Some(saved), true, false) = (&work.saved, case.runs_forward_training(), empty) {
            let values = self.read("saved statistics", saved, &mut results);
            let (records, _) = values.as_chunks::<STATISTICS_WORDS>();
            let record = |&[pivot, offset, inverse_deviation, variance]: &[f32; STATISTICS_WORDS]| ChannelStatistics {
                pivot,
                offset,
                inverse_deviation,
                variance,
            };
            results.push_statistics(&records.iter().map(record).collect::<Vec<_>>());
        }
        if let Some([mean, variance]) = &work.running {
            for (tensor, words) in [("new_running_mean", mean), ("new_running_var", variance)] {
                let values = self.read(tensor, words, &mut results);
                results.push(tensor, "", values);
            }
            if let (Some(before), Some(words)) = (case.batches_tracked, &work.tracked) {
                let after = self.gpu.read::<u32>(&words.buffer, 1);
                results.check_tracked(before, after.first().copied().unwrap_or_default(), empty);
            }
        }
        results
    }

    /// The values of a buffer; elements that still hold the poison are a problem whatever the truth is.
    fn read(&self, name: &str, words: &Words, results: &mut Results) -> Vec<f32> {
        let bits = self.gpu.read::<u32>(&words.buffer, words.words);
        let unwritten = bits.iter().filter(|&&bits| bits == POISON).count();
        if unwritten > 0 {
            results.problems.push(format!("{name}: {unwritten} of {} values were not written", bits.len()));
        }
        bits.into_iter().map(f32::from_bits).collect()
    }

    fn upload(&self, label: &str, values: &[f32]) -> Words {
        Words { buffer: self.gpu.upload(label, values), words: values.len() }
    }

    fn poisoned(&self, label: &str, words: usize) -> Words {
        Words { buffer: self.gpu.upload(label, &vec![POISON; words]), words }
    }

    /// Scratch with poison in it, as a step may expect nothing of its contents.
    fn workspace(&self, plan: &Plan) -> Words {
        self.poisoned("workspace", plan.workspace_size().div_ceil(size_of::<u32>() as u64) as usize)
    }

    /// dx, dγ and dβ.
    fn gradients(&self, case: &Case) -> [Words; 3] {
        let channels = case.problem.channels as usize;
        [("dx", case.x.len()), ("dweight", channels), ("dbias", channels)]
            .map(|(label, words)| self.poisoned(label, words))
    }

    fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Work {
    fn push_gradients(&mut self, gradients: [Words; 3], variant: &'static str) {
        let named = ["dx", "dweight", "dbias"].into_iter().zip(gradients);
        self.outputs.extend(named.map(|(tensor, words)| Output { tensor, variant, words }));
    }
}

fn overwrite(words: &Words) -> Option<Gradient<'_>> {
    Some(Gradient::Overwrite(words.slice()))
}
