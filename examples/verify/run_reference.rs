//! Runs a case on the CPU reference, reading and writing f32 as the device does.

use wgpu_batch_norm::reference::{
    BackwardBuffers, BatchNorm, FrozenBackwardBuffers, Gradient, InferenceBuffers, Plan, RunningStatistics,
    TrainingBuffers,
};
use wgpu_batch_norm::{ChannelStatistics, Error};

use crate::case::Case;
use crate::results::{RECOMPUTED, Results};

/// Computes everything that the case can be checked with.
///
/// # Errors
/// What the reference refuses.
pub fn run(case: &Case) -> Result<Results, Error> {
    let batch_norm = BatchNorm::new(&case.descriptor)?;
    let plan = batch_norm.plan(&case.shape)?;
    let mut results = Results::default();
    let mut saved = case.given_statistics.clone();
    if case.runs_forward_training() {
        saved = Some(training(case, &batch_norm, &plan, &mut results)?);
    }
    if case.operations.backward_training {
        backward(case, &batch_norm, &plan, (saved.as_deref(), ""), &mut results)?;
        if case.given_statistics.is_none() {
            backward(case, &batch_norm, &plan, (None, RECOMPUTED), &mut results)?;
        }
    }
    let Some((mean, variance)) = &case.running else { return Ok(results) };
    if case.operations.forward_inference {
        let mut y = unwritten(case.x.len());
        let buffers = InferenceBuffers {
            input: &case.x,
            output: &mut y,
            gamma: case.weight.as_deref(),
            beta: case.bias.as_deref(),
            running_mean: mean,
            running_variance: variance,
        };
        batch_norm.inference(&plan, buffers)?;
        results.push("y", "", y);
    }
    if case.operations.backward_inference {
        let mut gradients = Gradients::new(case);
        let buffers = FrozenBackwardBuffers {
            input: Some(&case.x),
            output_gradient: case.dy.as_deref().unwrap_or_default(),
            gamma: case.weight.as_deref(),
            running_mean: mean,
            running_variance: variance,
            input_gradient: Some(Gradient::Overwrite(&mut gradients.input)),
            gamma_gradient: Some(Gradient::Overwrite(&mut gradients.gamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut gradients.beta)),
        };
        batch_norm.backward_frozen(&plan, buffers)?;
        gradients.push("", &mut results);
    }
    Ok(results)
}

/// Training forward; returns the saved statistics.
fn training(
    case: &Case,
    batch_norm: &BatchNorm,
    plan: &Plan,
    results: &mut Results,
) -> Result<Vec<ChannelStatistics>, Error> {
    let mut y = unwritten(case.x.len());
    let nan = ChannelStatistics { pivot: f32::NAN, offset: f32::NAN, inverse_deviation: f32::NAN, variance: f32::NAN };
    let mut saved = vec![nan; case.problem.channels as usize];
    let mut running = case.running.clone();
    let mut tracked = case.batches_tracked;
    let buffers = TrainingBuffers {
        input: &case.x,
        output: &mut y,
        gamma: case.weight.as_deref(),
        beta: case.bias.as_deref(),
        running: running.as_mut().map(|(mean, variance)| RunningStatistics {
            mean,
            variance,
            batches_tracked: tracked.as_mut(),
        }),
        saved: Some(&mut saved),
    };
    batch_norm.training(plan, buffers)?;
    results.push("y", "", y);
    results.push_statistics(&saved);
    if let Some((mean, variance)) = running {
        results.push("new_running_mean", "", mean);
        results.push("new_running_var", "", variance);
        if let (Some(before), Some(after)) = (case.batches_tracked, tracked) {
            results.check_tracked(before, after, case.problem.count() == 0);
        }
    }
    Ok(saved)
}

/// Backward through training statistics, saved ones or those of x.
fn backward(
    case: &Case,
    batch_norm: &BatchNorm,
    plan: &Plan,
    (saved, variant): (Option<&[ChannelStatistics]>, &'static str),
    results: &mut Results,
) -> Result<(), Error> {
    let mut gradients = Gradients::new(case);
    let buffers = BackwardBuffers {
        input: &case.x,
        output_gradient: case.dy.as_deref().unwrap_or_default(),
        gamma: case.weight.as_deref(),
        saved,
        input_gradient: Some(Gradient::Overwrite(&mut gradients.input)),
        gamma_gradient: Some(Gradient::Overwrite(&mut gradients.gamma)),
        beta_gradient: Some(Gradient::Overwrite(&mut gradients.beta)),
    };
    batch_norm.backward(plan, buffers)?;
    gradients.push(variant, results);
    Ok(())
}

/// The three gradients.
struct Gradients {
    input: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Gradients {
    fn new(case: &Case) -> Self {
        let channels = case.problem.channels as usize;
        Self { input: unwritten(case.x.len()), gamma: unwritten(channels), beta: unwritten(channels) }
    }

    fn push(self, variant: &'static str, results: &mut Results) {
        results.push("dx", variant, self.input);
        results.push("dweight", variant, self.gamma);
        results.push("dbias", variant, self.beta);
    }
}

/// NaN, so that an element nobody writes is seen.
fn unwritten(count: usize) -> Vec<f32> {
    vec![f32::NAN; count]
}
