//! Backward from the output, on a device and on the reference, both from the same output.

use wgpu_batch_norm::{
    BatchNorm, ChannelStatistics, Error, Gradient, OutputBackwardBuffers, Strategies, TrainingBuffers, ValidBuffers,
    ValidSource, reference,
};

use super::Target;
use super::case::{Case, Padding, loaded, stored};
use super::memory::Memory;

/// What a device's forward left for backward.
#[derive(Clone, Debug)]
pub struct Kept {
    pub output: Vec<f32>,
    pub saved: Vec<ChannelStatistics>,
}

/// What backward made of it; what the case does not want is as it was before.
#[derive(Clone, Debug)]
pub struct OutputGradients {
    pub input: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
}

impl OutputGradients {
    fn before(case: &Case) -> Self {
        let [gamma, beta] = [(); 2].map(|()| case.gradient_seed(case.channels()));
        Self { input: case.gradient_seed(case.input.len()), gamma, beta }
    }
}

/// Backward on the reference from what a device kept.
pub fn reference_from_output(case: &Case, kept: &Kept) -> OutputGradients {
    let bn = reference::BatchNorm::new(&case.descriptor()).unwrap();
    let plan = bn.plan(&case.shape()).unwrap();
    let mut gradients = OutputGradients::before(case);
    let valid = case.valid();
    fn gradient<'a>(case: &Case, wanted: bool, values: &'a mut [f32]) -> Option<reference::Gradient<'a, f32>> {
        let mode = if case.accumulates { reference::Gradient::Accumulate } else { reference::Gradient::Overwrite };
        wanted.then_some(mode(values))
    }
    let buffers = reference::OutputBackwardBuffers {
        output: &kept.output,
        output_gradient: &case.output_gradient,
        gamma: case.gamma.as_deref(),
        beta: case.beta.as_deref(),
        saved: &kept.saved,
        valid: valid.as_deref(),
        input_gradient: gradient(case, case.wants_input, &mut gradients.input),
        gamma_gradient: gradient(case, case.wants_gamma, &mut gradients.gamma),
        beta_gradient: gradient(case, case.wants_beta, &mut gradients.beta),
    };
    bn.backward_from_output(&plan, buffers).unwrap();
    gradients
}

/// Forward and backward on a device, in one submission.
pub fn device_from_output(
    case: &Case,
    target: &Target,
    strategies: Strategies,
) -> Result<(Kept, OutputGradients), Error> {
    let memory = Memory::new(target);
    let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor())?;
    let plan = bn.plan_with(&case.shape(), strategies)?;
    let (elements, channels) = (case.input.len(), case.channels());
    let (whole, each) = (..plan.tensor_size(), ..plan.vector_size());
    let tensor = |label, values: &[f32]| memory.upload(label, &stored(case.element, values));
    let before = OutputGradients::before(case);
    let (x, g) = (tensor("x", &case.input), tensor("dy", &case.output_gradient));
    let (y, dx) = (memory.zeroed("y", plan.tensor_size()), tensor("dx", &before.input));
    let (y, dx) = if case.in_place { (&x, &g) } else { (&y, &dx) };
    let [gamma, beta] =
        [&case.gamma, &case.beta].map(|values| values.as_deref().map(|values| memory.upload("vector", values)));
    let [dgamma, dbeta] = [&before.gamma, &before.beta].map(|values| memory.upload("gradient", values));
    let saved = memory.zeroed("saved", plan.saved_size());
    let workspace = memory.zeroed("workspace", plan.workspace_size());
    let source = memory.upload("valid_source", &case.valid_source());
    let valid = memory.zeroed("valid", plan.valid_size());
    let valid = valid.slice(..plan.valid_size());
    let marking = match &case.padding {
        None => None,
        Some(Padding::Lengths(lengths, axes)) => {
            let lengths = source.slice(..4 * lengths.len() as u64);
            let source = ValidSource::Lengths { lengths, axes: *axes };
            Some(bn.bind_valid(&plan, &ValidBuffers { source, valid })?)
        }
        Some(Padding::Flags(_)) => {
            let source = ValidSource::Flags(source.slice(..plan.positions_size()));
            Some(bn.bind_valid(&plan, &ValidBuffers { source, valid })?)
        }
    };
    let valid = marking.as_ref().map(|_| valid);
    let [gamma, beta] = [&gamma, &beta].map(|buffer| buffer.as_ref().map(|buffer| buffer.slice(each)));
    let forward = bn.bind_training(
        &plan,
        &TrainingBuffers {
            gamma,
            beta,
            valid,
            saved: Some(saved.slice(..plan.saved_size())),
            ..TrainingBuffers::new(x.slice(whole), y.slice(whole), workspace.slice(..))
        },
    )?;
    let gradient = |wanted: bool, slice| {
        wanted.then_some(if case.accumulates { Gradient::Accumulate(slice) } else { Gradient::Overwrite(slice) })
    };
    let backward = bn.bind_backward_from_output(
        &plan,
        &OutputBackwardBuffers {
            gamma,
            beta,
            valid,
            input_gradient: gradient(case.wants_input, dx.slice(whole)),
            gamma_gradient: gradient(case.wants_gamma, dgamma.slice(each)),
            beta_gradient: gradient(case.wants_beta, dbeta.slice(each)),
            ..OutputBackwardBuffers::new(
                y.slice(whole),
                g.slice(whole),
                saved.slice(..plan.saved_size()),
                workspace.slice(..),
            )
        },
    )?;
    target.gpu.submit(|pass| {
        if let Some(marking) = &marking {
            marking.record(pass);
        }
        forward.record(pass);
        backward.record(pass);
    });
    memory.assert_gaps_are_untouched();
    let read = |buffer| loaded(case.element, &memory.read::<u32>(buffer, plan.tensor_size() as usize / 4), elements);
    let instances = plan.segmentation().instances() as usize;
    let kept = Kept { output: read(y), saved: memory.read(&saved, instances) };
    let gradients =
        OutputGradients { input: read(dx), gamma: memory.read(&dgamma, channels), beta: memory.read(&dbeta, channels) };
    Ok((kept, gradients))
}
