//! Runs a case on a device: all its operations in one submission, then reads everything back.

use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{Buffer, BufferSlice, ComputePass};
use wgpu_batch_norm::{
    AccumulateBuffers, ActivationSource, ActivationState, BackwardBuffers, BatchNorm, ChannelHealth, ChannelMoments,
    ChannelRenormalization, ChannelStatistics, ElementType, Error, FoldBuffers, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, Kernels, OutputBackwardBuffers, Plan, PopulationBuffers, Renormalization, RunningStatistics,
    Shape, TrainingBuffers, ValidBuffers, ValidSource, wgpu,
};

use crate::case::Case;
use crate::probe::Traits;
use crate::results::{IN_PLACE, ONE_BATCH, RECOMPUTED, Results, Variant};
use crate::storage::{self, Unpacked};
use crate::support::Gpu;

/// The words of one [`ChannelStatistics`].
const STATISTICS_WORDS: usize = size_of::<ChannelStatistics>() / size_of::<u32>();
/// The words of one [`ChannelMoments`].
const MOMENTS_WORDS: usize = size_of::<ChannelMoments>() / size_of::<u32>();

/// A device with its kernels.
pub struct Runner {
    gpu: Gpu,
    kernels: Kernels,
    traits: Traits,
    /// What the device reported outside of any call.
    errors: Arc<Mutex<Vec<String>>>,
}

/// A buffer that holds exactly `count` elements from its start on.
#[derive(Clone)]
struct Values {
    buffer: Buffer,
    element: ElementType,
    count: usize,
}

impl Values {
    fn slice(&self) -> BufferSlice<'_> {
        self.buffer.slice(..(self.words() * size_of::<u32>()) as u64)
    }

    fn words(&self) -> usize {
        storage::words(self.element, self.count)
    }
}

/// A result to be read back.
struct Output {
    tensor: &'static str,
    variant: Variant,
    values: Values,
}

/// What training forward leaves beside y, to be read back.
struct Trained {
    variant: Variant,
    saved: Values,
    renormalization: Option<Values>,
    running: Option<[Values; 2]>,
    tracked: Option<Values>,
    health: Option<Values>,
}

/// What the statistics of many batches are, to be read back.
struct Population {
    variant: Variant,
    moments: Values,
    running: [Values; 2],
}

/// What forward leaves for backward.
#[derive(Default)]
struct Kept {
    y: Option<Values>,
    mask: Option<Values>,
    saved: Option<Values>,
    renormalization: Option<Values>,
}

/// How one backward is run.
#[derive(Clone, Copy)]
struct Way {
    source: ActivationSource,
    saved: bool,
    in_place: bool,
}

impl Way {
    fn variant(self) -> Variant {
        Variant::from_source(self.source).with(!self.saved, RECOMPUTED).with(self.in_place, IN_PLACE)
    }
}

/// The gradients of one backward.
struct Gradients {
    input: Values,
    residual: Option<Values>,
    gamma: Values,
    beta: Values,
}

/// Records one step into a pass.
type RecordStep = Box<dyn Fn(&mut ComputePass<'_>)>;

/// A case on a device: its inputs, the steps in order, and what is to be read after them.
struct Run<'a> {
    runner: &'a Runner,
    case: &'a Case,
    batch_norm: BatchNorm,
    plan: Plan,
    x: Values,
    residual: Option<Values>,
    dy: Values,
    weight: Option<Values>,
    bias: Option<Values>,
    workspace: Values,
    /// Which elements are valid, if not all are.
    valid: Option<Values>,
    /// The limits of batch renormalization.
    limits: Option<Values>,
    kept: Kept,
    steps: Vec<RecordStep>,
    outputs: Vec<Output>,
    trained: Vec<Trained>,
    populations: Vec<Population>,
}

impl Runner {
    pub fn new(gpu: Gpu) -> Self {
        let errors = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&errors);
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
        }));
        let kernels = Kernels::new(&gpu.device);
        let traits = Traits::of(&gpu);
        Self { gpu, kernels, traits, errors }
    }

    pub fn traits(&self) -> Traits {
        self.traits
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
        let mut run = Run::new(self, case)?;
        run.bind()?;
        self.gpu.submit(|pass| run.steps.iter().for_each(|step| step(pass)));
        let mut results = run.read_results();
        results.problems.extend(self.take_errors());
        Ok(results)
    }

    /// One f32 a channel, or a part of a record.
    fn vector(&self, label: &str, values: &[f32]) -> Values {
        self.tensor(label, ElementType::F32, values)
    }

    fn tensor(&self, label: &str, element: ElementType, values: &[f32]) -> Values {
        let buffer = self.gpu.upload(label, &storage::pack(element, values));
        Values { buffer, element, count: values.len() }
    }

    fn poisoned(&self, label: &str, element: ElementType, count: usize) -> Values {
        let words = vec![storage::poison(element); storage::words(element, count)];
        Values { buffer: self.gpu.upload(label, &words), element, count }
    }

    /// Scratch, saved statistics or a mask, with poison in it, as a step may expect nothing of its contents.
    fn poisoned_bytes(&self, label: &str, size: u64) -> Values {
        self.poisoned(label, ElementType::F32, size.div_ceil(size_of::<u32>() as u64) as usize)
    }

    fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<'a> Run<'a> {
    fn new(runner: &'a Runner, case: &'a Case) -> Result<Self, Error> {
        let batch_norm = BatchNorm::with_kernels(&runner.kernels, &case.descriptor)?;
        let plan = batch_norm.plan(&case.shape)?;
        let element = case.descriptor.element;
        let fields = |saved: &ChannelStatistics| [saved.pivot, saved.offset, saved.inverse_deviation, saved.variance];
        let given = case.given_statistics.as_ref().map(|given| given.iter().flat_map(fields).collect::<Vec<_>>());
        Ok(Self {
            runner,
            case,
            x: runner.tensor("x", element, &case.x),
            residual: case.residual.as_ref().map(|values| runner.tensor("residual", element, values)),
            dy: runner.tensor("dy", element, case.dy.as_deref().unwrap_or_default()),
            weight: case.weight.as_ref().map(|values| runner.vector("weight", values)),
            bias: case.bias.as_ref().map(|values| runner.vector("bias", values)),
            workspace: runner.poisoned_bytes("workspace", plan.workspace_size()),
            valid: case.valid.as_ref().map(|_| runner.poisoned_bytes("valid", plan.valid_size())),
            limits: case.renormalization.map(|limits| runner.vector("limits", &limits)),
            kept: Kept { saved: given.map(|given| runner.vector("saved", &given)), ..Kept::default() },
            steps: Vec::new(),
            outputs: Vec::new(),
            trained: Vec::new(),
            populations: Vec::new(),
            batch_norm,
            plan,
        })
    }

    fn bind(&mut self) -> Result<(), Error> {
        let case = self.case;
        self.bind_valid()?;
        if case.runs_forward_training() {
            self.bind_training(false)?;
            self.bind_training(true)?;
        }
        if case.operations.backward_training {
            for &source in case.sources() {
                self.bind_backward(Way { source, saved: true, in_place: false })?;
                self.bind_backward(Way { source, saved: true, in_place: true })?;
                if case.given_statistics.is_none() {
                    self.bind_backward(Way { source, saved: false, in_place: false })?;
                }
            }
        }
        if case.operations.backward_from_output {
            self.bind_backward_from_output(false)?;
            self.bind_backward_from_output(true)?;
        }
        let Some((mean, variance)) = &case.running else { return Ok(()) };
        if case.operations.population {
            self.bind_population(&case.batches, Variant::default(), mean, variance)?;
            let variant = Variant::default().with(true, ONE_BATCH);
            self.bind_population(std::slice::from_ref(&case.shape), variant, mean, variance)?;
        }
        let running = [self.runner.vector("running mean", mean), self.runner.vector("running variance", variance)];
        if case.operations.fold {
            self.bind_fold(&running, false)?;
            self.bind_fold(&running, true)?;
        }
        if case.operations.forward_inference {
            self.bind_inference(&running, false)?;
            self.bind_inference(&running, true)?;
        }
        if case.operations.backward_inference {
            for &source in case.sources() {
                if source == ActivationSource::Mask && self.valid.is_some() {
                    continue;
                }
                for in_place in [false, true] {
                    self.bind_backward_frozen(&running, Way { source, saved: true, in_place })?;
                }
            }
        }
        Ok(())
    }

    /// From lengths where the case has them, else from flags.
    fn bind_valid(&mut self) -> Result<(), Error> {
        let (Some(flags), Some(valid)) = (&self.case.valid, &self.valid) else { return Ok(()) };
        let flags = as_words(flags);
        let lengths = self.case.lengths.as_ref();
        let words = self.runner.gpu.upload("valid source", lengths.map_or(&flags, |(lengths, _)| lengths));
        let source = match lengths {
            Some((lengths, axes)) => {
                let size = (lengths.len() * size_of::<u32>()) as u64;
                ValidSource::Lengths { lengths: words.slice(..size), axes: *axes }
            }
            None => ValidSource::Flags(words.slice(..self.plan.positions_size())),
        };
        let step = self.batch_norm.bind_valid(&self.plan, &ValidBuffers { source, valid: valid.slice() })?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        Ok(())
    }

    /// Training forward; in place it writes no mask, so that both kernels run.
    fn bind_training(&mut self, in_place: bool) -> Result<(), Error> {
        let (input, output) = self.input_and_output(in_place);
        let mask = self.mask(in_place);
        let saved = self.runner.poisoned_bytes("saved", self.plan.saved_size());
        let running = self.case.running.as_ref().map(|(mean, variance)| {
            [self.runner.vector("running mean", mean), self.runner.vector("running variance", variance)]
        });
        let tracked = self.case.batches_tracked.map(|count| Values {
            buffer: self.runner.gpu.upload("batches tracked", &[count]),
            element: ElementType::F32,
            count: 1,
        });
        let health = self.case.expects("save_health");
        let health = health.then(|| self.runner.poisoned_bytes("health", self.plan.health_size()));
        let renormalization =
            self.limits.as_ref().map(|_| self.runner.poisoned_bytes("corrections", self.plan.renormalization_size()));
        let buffers = TrainingBuffers {
            valid: self.valid.as_ref().map(Values::slice),
            renormalization: self
                .limits
                .as_ref()
                .zip(renormalization.as_ref())
                .map(|(limits, saved)| Renormalization { limits: limits.slice(), saved: saved.slice() }),
            residual: self.residual.as_ref().map(Values::slice),
            activation_mask: mask.as_ref().map(Values::slice),
            gamma: self.weight.as_ref().map(Values::slice),
            beta: self.bias.as_ref().map(Values::slice),
            running: running.as_ref().map(|[mean, variance]| RunningStatistics {
                mean: mean.slice(),
                variance: variance.slice(),
                batches_tracked: tracked.as_ref().map(Values::slice),
            }),
            saved: Some(saved.slice()),
            health: health.as_ref().map(Values::slice),
            ..TrainingBuffers::new(input.slice(), output.slice(), self.workspace.slice())
        };
        let step = self.batch_norm.bind_training(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        let variant = Variant::default().with(in_place, IN_PLACE);
        if !in_place {
            self.kept = Kept {
                y: Some(output.clone()),
                mask,
                saved: Some(saved.clone()),
                renormalization: renormalization.clone(),
            };
        }
        self.outputs.push(Output { tensor: "y", variant: variant.clone(), values: output });
        self.trained.push(Trained { variant, saved, renormalization, running, tracked, health });
        Ok(())
    }

    /// Backward through training statistics, saved ones or those of x.
    fn bind_backward(&mut self, way: Way) -> Result<(), Error> {
        let (output_gradient, gradients) = self.gradients(way);
        let buffers = BackwardBuffers {
            valid: self.valid.as_ref().map(Values::slice),
            renormalization: self.kept.renormalization.as_ref().map(Values::slice),
            gamma: self.weight.as_ref().map(Values::slice),
            beta: self.bias.as_ref().map(Values::slice),
            activation: self.activation_state(way.source),
            saved: self.kept.saved.as_ref().filter(|_| way.saved).map(Values::slice),
            input_gradient: overwrite(&gradients.input),
            residual_gradient: gradients.residual.as_ref().and_then(overwrite),
            gamma_gradient: overwrite(&gradients.gamma),
            beta_gradient: overwrite(&gradients.beta),
            ..BackwardBuffers::new(self.x.slice(), output_gradient.slice(), self.workspace.slice())
        };
        let step = self.batch_norm.bind_backward(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        self.push_gradients(gradients, &way.variant());
        Ok(())
    }

    /// Inference; in place it writes no mask, so that both kernels run.
    fn bind_inference(&mut self, [mean, variance]: &[Values; 2], in_place: bool) -> Result<(), Error> {
        let (input, output) = self.input_and_output(in_place);
        // Of a padded batch inference writes none.
        let mask = self.mask(in_place).filter(|_| self.valid.is_none());
        let buffers = InferenceBuffers {
            valid: self.valid.as_ref().map(Values::slice),
            residual: self.residual.as_ref().map(Values::slice),
            activation_mask: mask.as_ref().map(Values::slice),
            gamma: self.weight.as_ref().map(Values::slice),
            beta: self.bias.as_ref().map(Values::slice),
            ..InferenceBuffers::new(input.slice(), output.slice(), mean.slice(), variance.slice())
        };
        let step = self.batch_norm.bind_inference(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        if !in_place {
            self.kept = Kept { y: Some(output.clone()), mask, ..Kept::default() };
        }
        let variant = Variant::default().with(in_place, IN_PLACE);
        self.outputs.push(Output { tensor: "y", variant, values: output });
        Ok(())
    }

    /// Backward through the running statistics.
    fn bind_backward_frozen(&mut self, [mean, variance]: &[Values; 2], way: Way) -> Result<(), Error> {
        let (output_gradient, gradients) = self.gradients(way);
        let (mean, variance) = (mean.slice(), variance.slice());
        let buffers = FrozenBackwardBuffers {
            valid: self.valid.as_ref().map(Values::slice),
            input: Some(self.x.slice()),
            gamma: self.weight.as_ref().map(Values::slice),
            beta: self.bias.as_ref().map(Values::slice),
            activation: self.activation_state(way.source),
            input_gradient: overwrite(&gradients.input),
            residual_gradient: gradients.residual.as_ref().and_then(overwrite),
            gamma_gradient: overwrite(&gradients.gamma),
            beta_gradient: overwrite(&gradients.beta),
            ..FrozenBackwardBuffers::new(output_gradient.slice(), mean, variance, self.workspace.slice())
        };
        let step = self.batch_norm.bind_backward_frozen(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        self.push_gradients(gradients, &way.variant());
        Ok(())
    }

    /// Backward through training statistics, from what forward wrote instead of from x.
    fn bind_backward_from_output(&mut self, in_place: bool) -> Result<(), Error> {
        let way = Way { source: ActivationSource::Recompute, saved: true, in_place };
        let (output_gradient, gradients) = self.gradients(way);
        let (Some(y), Some(saved)) = (&self.kept.y, &self.kept.saved) else { return Ok(()) };
        let buffers = OutputBackwardBuffers {
            valid: self.valid.as_ref().map(Values::slice),
            gamma: self.weight.as_ref().map(Values::slice),
            beta: self.bias.as_ref().map(Values::slice),
            input_gradient: overwrite(&gradients.input),
            gamma_gradient: overwrite(&gradients.gamma),
            beta_gradient: overwrite(&gradients.beta),
            ..OutputBackwardBuffers::new(y.slice(), output_gradient.slice(), saved.slice(), self.workspace.slice())
        };
        let step = self.batch_norm.bind_backward_from_output(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        self.push_gradients(gradients, &way.variant());
        Ok(())
    }

    fn bind_fold(&mut self, [mean, variance]: &[Values; 2], in_place: bool) -> Result<(), Error> {
        let (weight, folded_weight) = self.input_and_output(in_place);
        let channels = self.case.problem.channels as usize;
        let folded_bias = self.runner.poisoned("folded bias", ElementType::F32, channels);
        let bias = self.case.layer_bias.as_ref().map(|values| self.runner.vector("layer bias", values));
        let buffers = FoldBuffers {
            weight: weight.slice(),
            bias: bias.as_ref().map(Values::slice),
            gamma: self.weight.as_ref().map(Values::slice),
            beta: self.bias.as_ref().map(Values::slice),
            running_mean: mean.slice(),
            running_variance: variance.slice(),
            folded_weight: folded_weight.slice(),
            folded_bias: folded_bias.slice(),
        };
        let step = self.batch_norm.bind_fold(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        let variant = Variant::default().with(in_place, IN_PLACE);
        for (tensor, values) in [("folded_weight", folded_weight), ("folded_bias", folded_bias)] {
            self.outputs.push(Output { tensor, variant: variant.clone(), values });
        }
        Ok(())
    }

    /// The statistics of x, which comes in batches with a plan each.
    fn bind_population(
        &mut self,
        batches: &[Shape],
        variant: Variant,
        mean: &[f32],
        variance: &[f32],
    ) -> Result<(), Error> {
        let runner = self.runner;
        let moments = runner.vector("moments", &vec![0.0; mean.len() * MOMENTS_WORDS]);
        let running = [runner.vector("running mean", mean), runner.vector("running variance", variance)];
        let (mut x, mut valid) = (&self.case.x[..], self.case.valid.as_deref());
        for shape in batches {
            let plan = self.batch_norm.plan(shape)?;
            let batch = x.split_off(..plan.problem().elements() as usize).unwrap_or_default();
            let flags = match &mut valid {
                Some(valid) => valid.split_off(..plan.problem().count() as usize),
                None => None,
            };
            let marks = match flags {
                Some(flags) => {
                    let source = runner.gpu.upload("valid source", &as_words(flags));
                    let valid = runner.poisoned_bytes("valid", plan.valid_size());
                    let source = ValidSource::Flags(source.slice(..plan.positions_size()));
                    let step = self.batch_norm.bind_valid(&plan, &ValidBuffers { source, valid: valid.slice() })?;
                    self.steps.push(Box::new(move |pass| step.record(pass)));
                    Some(valid)
                }
                None => None,
            };
            let input = runner.tensor("batch", self.case.descriptor.element, batch);
            let workspace = runner.poisoned_bytes("workspace", plan.workspace_size());
            let buffers = AccumulateBuffers {
                input: input.slice(),
                moments: moments.slice(),
                valid: marks.as_ref().map(Values::slice),
                workspace: workspace.slice(),
            };
            let step = self.batch_norm.bind_accumulate(&plan, &buffers)?;
            self.steps.push(Box::new(move |pass| step.record(pass)));
        }
        let buffers = PopulationBuffers {
            moments: moments.slice(),
            running_mean: running[0].slice(),
            running_variance: running[1].slice(),
        };
        let step = self.batch_norm.bind_population(&self.plan, &buffers)?;
        self.steps.push(Box::new(move |pass| step.record(pass)));
        self.populations.push(Population { variant, moments, running });
        Ok(())
    }

    /// x and where y goes, which in place is over a copy of x.
    fn input_and_output(&self, in_place: bool) -> (Values, Values) {
        let element = self.case.descriptor.element;
        if in_place {
            let copy = self.runner.tensor("y over x", element, &self.case.x);
            (copy.clone(), copy)
        } else {
            (self.x.clone(), self.runner.poisoned("y", element, self.case.x.len()))
        }
    }

    /// dy and where the gradients go; in place dx goes over a copy of dy.
    fn gradients(&self, way: Way) -> (Values, Gradients) {
        let (runner, element) = (self.runner, self.case.descriptor.element);
        let tensor = |label| runner.poisoned(label, element, self.case.x.len());
        let vector = |label| runner.poisoned(label, ElementType::F32, self.case.problem.channels as usize);
        let (output_gradient, input) = if way.in_place {
            let copy = runner.tensor("dx over dy", element, self.case.dy.as_deref().unwrap_or_default());
            (copy.clone(), copy)
        } else {
            (self.dy.clone(), tensor("dx"))
        };
        let residual = self.residual.as_ref().map(|_| tensor("dresidual"));
        (output_gradient, Gradients { input, residual, gamma: vector("dweight"), beta: vector("dbias") })
    }

    /// A mask for forward to write, if a backward is to read it.
    fn mask(&self, in_place: bool) -> Option<Values> {
        let wanted = !in_place && self.case.sources().contains(&ActivationSource::Mask);
        wanted.then(|| self.runner.poisoned_bytes("activation mask", self.plan.mask_size()))
    }

    fn activation_state(&self, source: ActivationSource) -> ActivationState<'_> {
        let residual = self.residual.as_ref().map(Values::slice);
        match (source, &self.kept) {
            (ActivationSource::Output, Kept { y: Some(y), .. }) => ActivationState::Output(y.slice()),
            (ActivationSource::Mask, Kept { mask: Some(mask), .. }) => ActivationState::Mask(mask.slice()),
            (ActivationSource::Recompute, _) => ActivationState::Recompute { residual },
            (source, _) => unreachable!("no forward left a derivative from {source}"),
        }
    }

    fn push_gradients(&mut self, gradients: Gradients, variant: &Variant) {
        let Gradients { input, residual, gamma, beta } = gradients;
        let named = [("dx", Some(input)), ("dresidual", residual), ("dweight", Some(gamma)), ("dbias", Some(beta))];
        let output = |(tensor, values): (_, Option<Values>)| {
            values.map(|values| Output { tensor, variant: variant.clone(), values })
        };
        self.outputs.extend(named.into_iter().filter_map(output));
    }

    fn read_results(&self) -> Results {
        let mut results = Results::default();
        let empty = self.case.problem.count() == 0;
        for Output { tensor, variant, values } in &self.outputs {
            let read = self.read(tensor, variant, values, &mut results);
            results.push(tensor, variant, read);
        }
        for Population { variant, moments, running } in &self.populations {
            let records = self.runner.gpu.read::<ChannelMoments>(&moments.buffer, running[0].count);
            let [mean, variance] = running;
            let mean = self.read("new_running_mean", variant, mean, &mut results);
            let variance = self.read("new_running_var", variant, variance, &mut results);
            results.push_population(variant, &records, [mean, variance]);
        }
        for Trained { variant, saved, renormalization, running, tracked, health } in &self.trained {
            // An empty batch saves nothing.
            if !empty {
                let read = self.read("saved statistics", variant, saved, &mut results);
                let (records, _) = read.as_chunks::<STATISTICS_WORDS>();
                let record = |&[pivot, offset, inverse_deviation, variance]: &[f32; STATISTICS_WORDS]| {
                    ChannelStatistics { pivot, offset, inverse_deviation, variance }
                };
                results.push_statistics(variant, &records.iter().map(record).collect::<Vec<_>>());
            }
            if let Some(values) = renormalization {
                let read = self.read("saved corrections", variant, values, &mut results);
                let (records, _) = read.as_chunks::<2>();
                let record = |&[scale, shift]: &[f32; 2]| ChannelRenormalization { scale, shift };
                results.push_renormalization(variant, &records.iter().map(record).collect::<Vec<_>>());
            }
            if let Some(health) = health {
                let read = self.read("health", variant, health, &mut results);
                let flags = read.iter().map(|value| ChannelHealth(value.to_bits()));
                results.push_health(variant, &flags.collect::<Vec<_>>());
            }
            let Some([mean, variance_of_running]) = running else { continue };
            for (tensor, values) in [("new_running_mean", mean), ("new_running_var", variance_of_running)] {
                let read = self.read(tensor, variant, values, &mut results);
                results.push(tensor, variant, read);
            }
            if let (Some(before), Some(tracked)) = (self.case.batches_tracked, tracked) {
                let after = self.runner.gpu.read::<u32>(&tracked.buffer, 1);
                results.check_tracked(before, after.first().copied().unwrap_or_default(), self.case.counted_batches());
            }
        }
        results
    }

    /// The values of a buffer; elements that still hold the poison, and anything but 0 in what is left over of the last
    /// word, are a problem whatever the truth is.
    fn read(&self, name: &str, variant: &Variant, values: &Values, results: &mut Results) -> Vec<f32> {
        let words = self.runner.gpu.read::<u32>(&values.buffer, values.words());
        let Unpacked { values, unwritten, stray } = storage::unpack(values.element, &words, values.count);
        let name = format!("{name}{}", variant.suffix());
        if unwritten > 0 {
            results.problems.push(format!("{name}: {unwritten} of {} values were not written", values.len()));
        }
        if stray {
            results.problems.push(format!("{name}: the bytes past the last element are not 0"));
        }
        values
    }
}

/// A word for each flag.
fn as_words(flags: &[bool]) -> Vec<u32> {
    flags.iter().map(|&flag| u32::from(flag)).collect()
}

fn overwrite(values: &Values) -> Option<Gradient<'_>> {
    Some(Gradient::Overwrite(values.slice()))
}
