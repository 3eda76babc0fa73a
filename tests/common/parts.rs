//! A case cut into parts along its first dimension, run on the reference and on one device or several.

use std::time::Duration;

use wgpu_batch_norm::exchange::{Exchange, ExchangeError, ExchangeItem, ThreadCollective, threads};
use wgpu_batch_norm::{
    ActivationSource, ActivationState, BackwardBuffers, BatchNorm, ChannelGradientSums, ChannelMoments, Error,
    Gradient, PartBuffers, Renormalization, RunningStatistics, TrainingBuffers, ValidBuffers, ValidSource, reference,
    wgpu,
};

use super::Target;
use super::case::{Case, POISON, Padding, Results, loaded, stored};
use super::memory::{Held, Memory};

/// Cuts a case into parts of so many samples each. Not for sub-batches and lengths, which do not cut that way.
pub fn cut(case: &Case, samples: &[usize]) -> Vec<Case> {
    let step = case.input.len() / case.shape[0];
    let positions = step / case.channels();
    let mut first = 0;
    let parts = samples
        .iter()
        .map(|&count| {
            let (start, end) = (first, first + count);
            first = end;
            let of = |values: &[f32]| values[start * step..end * step].to_vec();
            let mut part = case.clone();
            part.shape[0] = count;
            part.input = of(&case.input);
            part.output_gradient = of(&case.output_gradient);
            part.residual = case.residual.as_deref().map(of);
            part.padding = case.padding.as_ref().map(|padding| match padding {
                Padding::Flags(flags) => Padding::Flags(flags[start * positions..end * positions].to_vec()),
                Padding::Lengths(..) => panic!("lengths are not cut"),
            });
            part
        })
        .collect();
    assert_eq!(first, case.shape[0], "parts are the whole batch");
    parts
}

/// The truth of what parts have no operation for, and poison elsewhere.
fn unfinished(case: &Case, truth: &Results) -> Results {
    let channels = case.channels();
    Results {
        output: Vec::new(),
        input_gradient: Vec::new(),
        residual_gradient: Vec::new(),
        gamma_gradient: vec![POISON; channels],
        beta_gradient: vec![POISON; channels],
        ..truth.clone()
    }
}

/// The case in parts on the reference.
pub fn run_reference_in_parts(case: &Case, samples: &[usize], truth: &Results) -> Result<Results, Error> {
    let bn = reference::BatchNorm::new(&case.descriptor())?;
    let parts = cut(case, samples);
    let instances = case.segmentation().instances() as usize;
    let mut moments = vec![ChannelMoments::default(); instances * parts.len()];
    for (part, record) in parts.iter().zip(moments.chunks_mut(instances)) {
        bn.part_moments(&bn.plan(&part.shape())?, &part.input, part.valid().as_deref(), record)?;
    }
    let mut results = unfinished(case, truth);
    let mut sums = vec![ChannelGradientSums::default(); moments.len()];
    for (index, (part, sums)) in parts.iter().zip(sums.chunks_mut(instances)).enumerate() {
        let (plan, valid) = (bn.plan(&part.shape())?, part.valid());
        let mut output = vec![POISON; part.input.len()];
        let (mut mean, mut variance) = (case.running_mean.clone(), case.running_variance.clone());
        let mut tracked = case.batches_tracked;
        bn.training_from_parts(
            &plan,
            &moments,
            reference::TrainingBuffers {
                input: &part.input,
                output: &mut output,
                residual: part.residual.as_deref(),
                gamma: case.gamma.as_deref(),
                beta: case.beta.as_deref(),
                running: Some(reference::RunningStatistics {
                    mean: &mut mean,
                    variance: &mut variance,
                    batches_tracked: tracked.as_mut(),
                }),
                saved: Some(&mut results.saved),
                health: Some(&mut results.health),
                valid: valid.as_deref(),
                renormalization: case
                    .renormalization
                    .map(|limits| reference::Renormalization { limits, saved: &mut results.renormalization }),
                activation_mask: None,
            },
        )?;
        results.output.extend(output);
        (results.running_mean, results.running_variance, results.batches_tracked) = (mean, variance, tracked);
        let gradient = |values| {
            Some(if index == 0 {
                reference::Gradient::Overwrite(values)
            } else {
                reference::Gradient::Accumulate(values)
            })
        };
        bn.part_gradients(
            &plan,
            sums,
            reference::BackwardBuffers {
                gamma_gradient: gradient(&mut results.gamma_gradient),
                beta_gradient: gradient(&mut results.beta_gradient),
                ..reference_backward(case, part, valid.as_deref(), &results.saved, &results.renormalization)
            },
        )?;
    }
    for part in &parts {
        let (plan, valid) = (bn.plan(&part.shape())?, part.valid());
        let (mut dx, mut dz) = (vec![POISON; part.input.len()], vec![POISON; part.input.len()]);
        bn.backward_from_parts(
            &plan,
            &sums,
            &moments,
            reference::BackwardBuffers {
                input_gradient: Some(reference::Gradient::Overwrite(&mut dx)),
                residual_gradient: case.returns_residual_gradient.then_some(reference::Gradient::Overwrite(&mut dz)),
                ..reference_backward(case, part, valid.as_deref(), &results.saved, &results.renormalization)
            },
        )?;
        results.input_gradient.extend(dx);
        if case.returns_residual_gradient {
            results.residual_gradient.extend(dz);
        }
    }
    Ok(results)
}

fn reference_backward<'a>(
    case: &'a Case,
    part: &'a Case,
    valid: Option<&'a [bool]>,
    saved: &'a [wgpu_batch_norm::ChannelStatistics],
    renormalization: &'a [wgpu_batch_norm::ChannelRenormalization],
) -> reference::BackwardBuffers<'a, f32> {
    reference::BackwardBuffers {
        input: &part.input,
        output_gradient: &part.output_gradient,
        gamma: case.gamma.as_deref(),
        beta: case.beta.as_deref(),
        activation: reference::ActivationState::Recompute { residual: part.residual.as_deref() },
        saved: Some(saved),
        valid,
        renormalization: case.renormalization.map(|_| renormalization),
        ..Default::default()
    }
}

/// A part and its buffers on a device.
struct Part<'a> {
    case: Case,
    target: &'a Target,
    memory: Memory<'a>,
    bn: BatchNorm,
    plan: wgpu_batch_norm::Plan,
    buffers: Vec<(&'static str, Held)>,
}

impl<'a> Part<'a> {
    fn new(whole: &Case, case: Case, target: &'a Target) -> Result<Self, Error> {
        let memory = Memory::new(target);
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor())?;
        let plan = bn.plan(&case.shape())?;
        let instances = plan.segmentation().instances() as usize;
        let poison = vec![POISON; case.input.len()];
        let tensor = |label, values: &[f32]| (label, memory.upload(label, &stored(case.element, values)));
        let vector = |label, values: &[f32]| (label, memory.upload(label, values));
        // What a result takes the place of, or what shows that nobody wrote it.
        let result = |label, replaced| tensor(label, if case.in_place { replaced } else { &poison });
        let records = |label, words: u64| (label, memory.upload(label, &vec![POISON; words as usize / 4]));
        let flags: Vec<u32> = case.valid().unwrap_or_default().into_iter().map(u32::from).collect();
        let mut buffers = vec![
            tensor("input", &case.input),
            tensor("output_gradient", &case.output_gradient),
            result("output", &case.input),
            result("input_gradient", &case.output_gradient),
            tensor("residual_gradient", &poison),
            tensor("residual", case.residual.as_deref().unwrap_or_default()),
            vector("gamma", case.gamma.as_deref().unwrap_or_default()),
            vector("beta", case.beta.as_deref().unwrap_or_default()),
            vector("mean", &whole.running_mean),
            vector("variance", &whole.running_variance),
            vector("limits", &case.renormalization.unwrap_or_default()),
            records("saved", plan.saved_size()),
            records("renormalization", plan.renormalization_size()),
            records("valid", plan.valid_size()),
            records("moments", plan.part_moments_size()),
            records("sums", plan.gradient_sums_size()),
            records("workspace", plan.workspace_size()),
            records("mask", plan.mask_size()),
        ];
        buffers.push(("flags", memory.upload("flags", &flags)));
        buffers.push(("health", memory.upload("health", &vec![!0_u32; instances])));
        buffers.push(("tracked", memory.upload("tracked", &[case.batches_tracked.unwrap_or(0)])));
        buffers.push(("gamma_gradient", memory.upload("gamma_gradient", &vec![0.0_f32; case.channels()])));
        buffers.push(("beta_gradient", memory.upload("beta_gradient", &vec![0.0_f32; case.channels()])));
        Ok(Self { case, target, memory, bn, plan, buffers })
    }

    fn buffer(&self, label: &str) -> &Held {
        &self.buffers.iter().find(|(name, _)| *name == label).expect("a buffer of that name").1
    }

    fn slice(&self, label: &str, size: u64) -> wgpu::BufferSlice<'_> {
        self.buffer(label).slice(..size)
    }

    fn given(&self, there: bool, label: &str, size: u64) -> Option<wgpu::BufferSlice<'_>> {
        there.then(|| self.slice(label, size))
    }

    /// A tensor that is mapped, or the result in whose place it stands.
    fn mapped(&self, label: &str, result: &str) -> wgpu::BufferSlice<'_> {
        self.slice(if self.case.in_place { result } else { label }, self.plan.tensor_size())
    }

    fn valid(&self) -> Option<wgpu::BufferSlice<'_>> {
        self.given(self.case.padding.is_some(), "valid", self.plan.valid_size())
    }

    fn residual(&self) -> Option<wgpu::BufferSlice<'_>> {
        self.given(self.case.residual.is_some(), "residual", self.plan.tensor_size())
    }

    fn moments(&self) -> Result<Vec<ChannelMoments>, Error> {
        let (plan, bn) = (&self.plan, &self.bn);
        let moments = bn.bind_part_moments(
            plan,
            &PartBuffers {
                valid: self.valid(),
                ..PartBuffers::new(
                    self.slice("input", plan.tensor_size()),
                    self.slice("moments", plan.part_moments_size()),
                    self.slice("workspace", plan.workspace_size()),
                )
            },
        )?;
        let marking = match self.valid() {
            Some(valid) => {
                let source = ValidSource::Flags(self.slice("flags", plan.positions_size()));
                Some(bn.bind_valid(plan, &ValidBuffers { source, valid })?)
            }
            None => None,
        };
        self.target.gpu.submit(|pass| {
            if let Some(marking) = &marking {
                marking.record(pass);
            }
            moments.record(pass);
        });
        Ok(self.memory.read(self.buffer("moments"), plan.segmentation().instances() as usize))
    }

    fn train(&self, moments: &[ChannelMoments]) -> Result<(), Error> {
        let (plan, case, gpu) = (&self.plan, &self.case, &self.target.gpu);
        let all = self.memory.upload("all moments", moments);
        let step = self.bn.bind_training_from_parts(
            plan,
            all.slice(..size_of_val(moments) as u64),
            &TrainingBuffers {
                residual: self.residual(),
                activation_mask: self.given(case.source == ActivationSource::Mask, "mask", plan.mask_size()),
                gamma: self.given(case.gamma.is_some(), "gamma", plan.vector_size()),
                beta: self.given(case.beta.is_some(), "beta", plan.vector_size()),
                running: Some(RunningStatistics {
                    mean: self.slice("mean", plan.running_size()),
                    variance: self.slice("variance", plan.running_size()),
                    batches_tracked: self.given(case.batches_tracked.is_some(), "tracked", 4),
                }),
                saved: Some(self.slice("saved", plan.saved_size())),
                health: Some(self.slice("health", plan.health_size())),
                valid: self.valid(),
                renormalization: case.renormalization.map(|_| Renormalization {
                    limits: self.slice("limits", 8),
                    saved: self.slice("renormalization", plan.renormalization_size()),
                }),
                ..TrainingBuffers::new(
                    self.mapped("input", "output"),
                    self.slice("output", plan.tensor_size()),
                    self.slice("workspace", plan.workspace_size()),
                )
            },
        )?;
        gpu.submit(|pass| step.record(pass));
        Ok(())
    }

    fn backward(&self) -> BackwardBuffers<'_> {
        let (plan, case) = (&self.plan, &self.case);
        let residual_gradient = self.given(case.returns_residual_gradient, "residual_gradient", plan.tensor_size());
        BackwardBuffers {
            gamma: self.given(case.gamma.is_some(), "gamma", plan.vector_size()),
            beta: self.given(case.beta.is_some(), "beta", plan.vector_size()),
            activation: match case.source {
                ActivationSource::Output => ActivationState::Output(self.slice("output", plan.tensor_size())),
                ActivationSource::Mask => ActivationState::Mask(self.slice("mask", plan.mask_size())),
                _ => ActivationState::Recompute { residual: self.residual() },
            },
            saved: Some(self.slice("saved", plan.saved_size())),
            valid: self.valid(),
            renormalization: self.given(case.renormalization.is_some(), "renormalization", plan.renormalization_size()),
            input_gradient: Some(Gradient::Overwrite(self.slice("input_gradient", plan.tensor_size()))),
            residual_gradient: residual_gradient.map(Gradient::Overwrite),
            gamma_gradient: Some(Gradient::Accumulate(self.slice("gamma_gradient", plan.vector_size()))),
            beta_gradient: Some(Gradient::Accumulate(self.slice("beta_gradient", plan.vector_size()))),
            ..BackwardBuffers::new(
                self.slice("input", plan.tensor_size()),
                self.mapped("output_gradient", "input_gradient"),
                self.slice("workspace", plan.workspace_size()),
            )
        }
    }

    fn sums(&self) -> Result<Vec<ChannelGradientSums>, Error> {
        let (plan, gpu) = (&self.plan, &self.target.gpu);
        let sums = self.slice("sums", plan.gradient_sums_size());
        let step = self.bn.bind_part_gradients(plan, sums, &self.backward())?;
        gpu.submit(|pass| step.record(pass));
        Ok(self.memory.read(self.buffer("sums"), plan.segmentation().instances() as usize))
    }

    fn gradients(&self, sums: &[ChannelGradientSums], moments: &[ChannelMoments]) -> Result<(), Error> {
        let gpu = &self.target.gpu;
        let (all_sums, all_moments) =
            (self.memory.upload("all sums", sums), self.memory.upload("all moments", moments));
        let step = self.bn.bind_backward_from_parts(
            &self.plan,
            all_sums.slice(..size_of_val(sums) as u64),
            all_moments.slice(..size_of_val(moments) as u64),
            &self.backward(),
        )?;
        gpu.submit(|pass| step.record(pass));
        Ok(())
    }

    /// Forward and backward, each with an exchange between its halves.
    fn through_an_exchange(&self, rank: &mut ThreadCollective) -> Result<(), ExchangeError> {
        let (plan, gpu) = (&self.plan, &self.target.gpu);
        let instances = plan.segmentation().instances() as usize;
        let items = [
            ExchangeItem::moments(plan, self.slice("moments", plan.part_moments_size())),
            ExchangeItem::gradient_sums(plan, self.slice("sums", plan.gradient_sums_size())),
        ];
        let [mut moments, mut sums] =
            [Exchange::new(&gpu.device, &items[..1])?, Exchange::new(&gpu.device, &items[1..])?];
        let mut run = |exchange: &mut Exchange| {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let fetch = exchange.record(&mut encoder)?;
            gpu.queue.submit([encoder.finish()]);
            gpu.wait();
            pollster::block_on(fetch)?;
            exchange.finish(&gpu.queue, rank)
        };
        self.moments()?;
        run(&mut moments)?;
        let merged: Vec<ChannelMoments> = self.memory.read(self.buffer("moments"), instances);
        self.train(&merged)?;
        self.sums()?;
        run(&mut sums)?;
        let merged_sums: Vec<ChannelGradientSums> = self.memory.read(self.buffer("sums"), instances);
        self.gradients(&merged_sums, &merged)?;
        Ok(())
    }

    fn tensor(&self, label: &str) -> Vec<f32> {
        let words = self.memory.read::<u32>(self.buffer(label), self.plan.tensor_size() as usize / 4);
        loaded(self.case.element, &words, self.case.input.len())
    }

    fn vector(&self, label: &str, count: usize) -> Vec<f32> {
        self.memory.read(self.buffer(label), count)
    }
}

/// The case in parts on devices, one after the other in turn: what is exchanged goes by way of the host.
pub fn run_devices_in_parts(
    case: &Case,
    samples: &[usize],
    targets: &[&Target],
    truth: &Results,
) -> Result<Results, Error> {
    let parts = cut(case, samples)
        .into_iter()
        .enumerate()
        .map(|(index, part)| Part::new(case, part, targets[index % targets.len()]))
        .collect::<Result<Vec<_>, _>>()?;
    let moments = parts.iter().map(Part::moments).collect::<Result<Vec<_>, _>>()?.concat();
    parts.iter().try_for_each(|part| part.train(&moments))?;
    let sums = parts.iter().map(Part::sums).collect::<Result<Vec<_>, _>>()?.concat();
    parts.iter().try_for_each(|part| part.gradients(&sums, &moments))?;
    Ok(collected(case, &parts, targets, truth))
}

/// The same, each part by a thread of its own; what is exchanged goes through [`Exchange`].
pub fn run_devices_through_an_exchange(
    case: &Case,
    samples: &[usize],
    targets: &[&Target],
    truth: &Results,
) -> Result<Results, ExchangeError> {
    // Under wgpu's OpenGL backend a thread that waits a second for another one, which compiles, panics; so all is compiled before.
    if targets.iter().any(|target| target.gpu.info.backend == wgpu::Backend::Gl) {
        run_devices_in_parts(case, samples, targets, truth)?;
    }
    let ranks = threads(samples.len(), Duration::from_secs(60));
    let cut = cut(case, samples).into_iter().enumerate().zip(ranks);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = cut
            .map(|((index, part), mut rank)| {
                scope.spawn(move || {
                    let part = Part::new(case, part, targets[index % targets.len()])?;
                    part.through_an_exchange(&mut rank)?;
                    Ok(part)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a rank panicked")).collect::<Result<_, ExchangeError>>()
    })?;
    let merged: Vec<Vec<ChannelMoments>> = parts
        .iter()
        .map(|part| part.memory.read(part.buffer("moments"), part.plan.segmentation().instances() as usize))
        .collect();
    for moments in &merged {
        let bits = |moments: &[ChannelMoments]| bytemuck::cast_slice::<_, u32>(moments).to_vec();
        assert_eq!(bits(moments), bits(&merged[0]), "ranks wrote different moments");
    }
    Ok(collected(case, &parts, targets, truth))
}

/// What the parts come to.
fn collected(case: &Case, parts: &[Part<'_>], targets: &[&Target], truth: &Results) -> Results {
    let instances = parts[0].plan.segmentation().instances() as usize;
    let mut results = unfinished(case, truth);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    results.gamma_gradient = vec![0.0; case.channels()];
    results.beta_gradient = vec![0.0; case.channels()];
    for (index, part) in parts.iter().enumerate() {
        part.memory.assert_gaps_are_untouched();
        results.output.extend(part.tensor("output"));
        results.input_gradient.extend(part.tensor("input_gradient"));
        if case.returns_residual_gradient {
            results.residual_gradient.extend(part.tensor("residual_gradient"));
        }
        for (to, label) in
            [(&mut results.gamma_gradient, "gamma_gradient"), (&mut results.beta_gradient, "beta_gradient")]
        {
            to.iter_mut().zip(part.vector(label, case.channels())).for_each(|(to, from)| *to += from);
        }
        let mean = part.vector("mean", case.running_mean.len());
        let variance = part.vector("variance", case.running_mean.len());
        if index == 0 {
            (results.running_mean, results.running_variance) = (mean, variance);
            results.saved = part.memory.read(part.buffer("saved"), instances);
            results.health = part.memory.read(part.buffer("health"), instances);
            results.batches_tracked = case.batches_tracked.map(|_| part.memory.read(part.buffer("tracked"), 1)[0]);
            if case.renormalization.is_some() {
                results.renormalization = part.memory.read(part.buffer("renormalization"), instances);
            }
        } else if targets.len() == 1 {
            // What all parts know, all parts find alike.
            assert_eq!(bits(&mean), bits(&results.running_mean), "running mean of part {index}");
            assert_eq!(bits(&variance), bits(&results.running_variance), "running variance of part {index}");
        }
    }
    results
}
