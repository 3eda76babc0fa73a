//! Runs a case on the CPU reference, reading and writing the element type that the device does.

use half::{bf16, f16};
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, Element, FoldBuffers, FrozenBackwardBuffers, Gradient,
    InferenceBuffers, OutputBackwardBuffers, Plan, Renormalization, RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    ActivationSource, ChannelHealth, ChannelMoments, ChannelRenormalization, ChannelStatistics, ElementType, Error,
    Shape,
};

use crate::case::Case;
use crate::results::{ONE_BATCH, RECOMPUTED, Results, Variant};

/// Computes everything that the case can be checked with.
///
/// # Errors
/// What the reference refuses.
pub fn run(case: &Case) -> Result<Results, Error> {
    match case.descriptor.element {
        ElementType::F16 => Run::<f16>::new(case)?.all(),
        ElementType::Bf16 => Run::<bf16>::new(case)?.all(),
        _ => Run::<f32>::new(case)?.all(),
    }
}

/// A case in its element type.
struct Run<'a, T> {
    case: &'a Case,
    batch_norm: BatchNorm,
    plan: Plan,
    x: Vec<T>,
    residual: Option<Vec<T>>,
    dy: Vec<T>,
    results: Results,
}

/// What forward leaves for backward.
#[derive(Default)]
struct Kept<T> {
    y: Vec<T>,
    mask: Option<Vec<u32>>,
    saved: Option<Vec<ChannelStatistics>>,
    renormalization: Option<Vec<ChannelRenormalization>>,
}

impl<'a, T: Element<Parameter = f32>> Run<'a, T> {
    fn new(case: &'a Case) -> Result<Self, Error> {
        let batch_norm = BatchNorm::new(&case.descriptor)?;
        let plan = batch_norm.plan(&case.shape)?;
        Ok(Self {
            case,
            batch_norm,
            plan,
            x: stored(&case.x),
            residual: case.residual.as_deref().map(stored),
            dy: stored(case.dy.as_deref().unwrap_or_default()),
            results: Results::default(),
        })
    }

    fn all(mut self) -> Result<Results, Error> {
        let case = self.case;
        self.check_lengths()?;
        let mut kept = Kept { y: Vec::new(), mask: None, saved: case.given_statistics.clone(), renormalization: None };
        if case.runs_forward_training() {
            kept = self.training()?;
        }
        if case.operations.backward_training {
            for &source in case.sources() {
                self.backward(&kept, source, kept.saved.as_deref())?;
                if case.given_statistics.is_none() {
                    self.backward(&kept, source, None)?;
                }
            }
        }
        if case.operations.backward_from_output {
            self.backward_from_output(&kept)?;
        }
        let Some((mean, variance)) = &case.running else { return Ok(self.results) };
        if case.operations.fold {
            self.fold(mean, variance)?;
        }
        if case.operations.population {
            self.population(&case.batches, &Variant::default())?;
            self.population(std::slice::from_ref(&case.shape), &Variant::default().with(true, ONE_BATCH))?;
        }
        if case.operations.forward_inference {
            kept = self.inference(mean, variance)?;
        }
        if case.operations.backward_inference {
            for &source in case.sources() {
                self.backward_frozen(&kept, source, (mean, variance))?;
            }
        }
        Ok(self.results)
    }

    /// The lengths of sequences must give the flags.
    fn check_lengths(&mut self) -> Result<(), Error> {
        if let Some((lengths, axes)) = &self.case.lengths {
            let valid = self.batch_norm.valid_positions(&self.plan, lengths, *axes)?;
            if Some(valid) != self.case.valid {
                self.results.problems.push("`lengths` do not give `valid`".into());
            }
        }
        Ok(())
    }

    fn training(&mut self) -> Result<Kept<T>, Error> {
        let case = self.case;
        let mut y = self.unwritten();
        let mut mask = self.mask();
        let nan =
            ChannelStatistics { pivot: f32::NAN, offset: f32::NAN, inverse_deviation: f32::NAN, variance: f32::NAN };
        let instances = case.segmentation.instances() as usize;
        let mut saved = vec![nan; instances];
        let nan = ChannelRenormalization { scale: f32::NAN, shift: f32::NAN };
        let mut renormalization = case.renormalization.map(|limits| (limits, vec![nan; instances]));
        let mut health = case.expects("save_health").then(|| vec![ChannelHealth(u32::MAX); instances]);
        let mut running = case.running.clone();
        let mut tracked = case.batches_tracked;
        let buffers = TrainingBuffers {
            input: &self.x,
            output: &mut y,
            residual: self.residual.as_deref(),
            activation_mask: mask.as_deref_mut(),
            gamma: case.weight.as_deref(),
            beta: case.bias.as_deref(),
            running: running.as_mut().map(|(mean, variance)| RunningStatistics {
                mean,
                variance,
                batches_tracked: tracked.as_mut(),
            }),
            saved: Some(&mut saved),
            valid: case.valid.as_deref(),
            renormalization: (renormalization.as_mut())
                .map(|(limits, saved)| Renormalization { limits: *limits, saved }),
            health: health.as_deref_mut(),
        };
        self.batch_norm.training(&self.plan, buffers)?;
        let (plain, results) = (Variant::default(), &mut self.results);
        results.push("y", &plain, widened(&y));
        results.push_statistics(&plain, &saved);
        if let Some(health) = health {
            results.push_health(&plain, &health);
        }
        let renormalization = renormalization.map(|(_, saved)| saved);
        if let Some(renormalization) = &renormalization {
            results.push_renormalization(&plain, renormalization);
        }
        if let Some((mean, variance)) = running {
            results.push("new_running_mean", &plain, mean);
            results.push("new_running_var", &plain, variance);
            if let (Some(before), Some(after)) = (case.batches_tracked, tracked) {
                results.check_tracked(before, after, case.counted_batches());
            }
        }
        Ok(Kept { y, mask, saved: Some(saved), renormalization })
    }

    fn inference(&mut self, mean: &[f32], variance: &[f32]) -> Result<Kept<T>, Error> {
        let mut y = self.unwritten();
        let mut mask = self.mask();
        let buffers = InferenceBuffers {
            input: &self.x,
            output: &mut y,
            residual: self.residual.as_deref(),
            activation_mask: mask.as_deref_mut(),
            gamma: self.case.weight.as_deref(),
            beta: self.case.bias.as_deref(),
            running_mean: mean,
            running_variance: variance,
            valid: self.case.valid.as_deref(),
        };
        self.batch_norm.inference(&self.plan, buffers)?;
        self.results.push("y", &Variant::default(), widened(&y));
        Ok(Kept { y, mask, saved: None, renormalization: None })
    }

    /// Backward through training statistics, saved ones or those of x.
    fn backward(
        &mut self,
        kept: &Kept<T>,
        source: ActivationSource,
        saved: Option<&[ChannelStatistics]>,
    ) -> Result<(), Error> {
        let mut gradients = Gradients::new(self);
        let buffers = BackwardBuffers {
            input: &self.x,
            output_gradient: &self.dy,
            gamma: self.case.weight.as_deref(),
            beta: self.case.bias.as_deref(),
            activation: self.activation_state(kept, source),
            saved,
            renormalization: kept.renormalization.as_deref(),
            valid: self.case.valid.as_deref(),
            input_gradient: Some(Gradient::Overwrite(&mut gradients.input)),
            residual_gradient: gradients.residual.as_deref_mut().map(Gradient::Overwrite),
            gamma_gradient: Some(Gradient::Overwrite(&mut gradients.gamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut gradients.beta)),
        };
        self.batch_norm.backward(&self.plan, buffers)?;
        gradients.push(&Variant::from_source(source).with(saved.is_none(), RECOMPUTED), &mut self.results);
        Ok(())
    }

    fn backward_frozen(
        &mut self,
        kept: &Kept<T>,
        source: ActivationSource,
        (mean, variance): (&[f32], &[f32]),
    ) -> Result<(), Error> {
        let mut gradients = Gradients::new(self);
        let buffers = FrozenBackwardBuffers {
            input: Some(&self.x),
            output_gradient: &self.dy,
            gamma: self.case.weight.as_deref(),
            beta: self.case.bias.as_deref(),
            activation: self.activation_state(kept, source),
            running_mean: mean,
            running_variance: variance,
            valid: self.case.valid.as_deref(),
            input_gradient: Some(Gradient::Overwrite(&mut gradients.input)),
            residual_gradient: gradients.residual.as_deref_mut().map(Gradient::Overwrite),
            gamma_gradient: Some(Gradient::Overwrite(&mut gradients.gamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut gradients.beta)),
        };
        self.batch_norm.backward_frozen(&self.plan, buffers)?;
        gradients.push(&Variant::from_source(source), &mut self.results);
        Ok(())
    }

    /// Backward through training statistics, from what forward wrote instead of from x.
    fn backward_from_output(&mut self, kept: &Kept<T>) -> Result<(), Error> {
        let mut gradients = Gradients::new(self);
        let buffers = OutputBackwardBuffers {
            output: &kept.y,
            output_gradient: &self.dy,
            gamma: self.case.weight.as_deref(),
            beta: self.case.bias.as_deref(),
            saved: kept.saved.as_deref().unwrap_or_default(),
            valid: self.case.valid.as_deref(),
            input_gradient: Some(Gradient::Overwrite(&mut gradients.input)),
            gamma_gradient: Some(Gradient::Overwrite(&mut gradients.gamma)),
            beta_gradient: Some(Gradient::Overwrite(&mut gradients.beta)),
        };
        self.batch_norm.backward_from_output(&self.plan, buffers)?;
        gradients.push(&Variant::default(), &mut self.results);
        Ok(())
    }

    fn fold(&mut self, mean: &[f32], variance: &[f32]) -> Result<(), Error> {
        let mut folded_weight = self.unwritten();
        let mut folded_bias = vec![f32::NAN; self.case.problem.channels as usize];
        let buffers = FoldBuffers {
            weight: &self.x,
            bias: self.case.layer_bias.as_deref(),
            gamma: self.case.weight.as_deref(),
            beta: self.case.bias.as_deref(),
            running_mean: mean,
            running_variance: variance,
            folded_weight: &mut folded_weight,
            folded_bias: &mut folded_bias,
        };
        self.batch_norm.fold(&self.plan, buffers)?;
        self.results.push("folded_weight", &Variant::default(), widened(&folded_weight));
        self.results.push("folded_bias", &Variant::default(), folded_bias);
        Ok(())
    }

    /// The statistics of x, which comes in batches.
    fn population(&mut self, batches: &[Shape], variant: &Variant) -> Result<(), Error> {
        let Some((mut mean, mut variance)) = self.case.running.clone() else { return Ok(()) };
        let mut moments = vec![ChannelMoments::default(); mean.len()];
        let (mut x, mut valid) = (&self.x[..], self.case.valid.as_deref());
        for shape in batches {
            let plan = self.batch_norm.plan(shape)?;
            let batch = x.split_off(..plan.problem().elements() as usize).unwrap_or_default();
            let flags = match &mut valid {
                Some(valid) => valid.split_off(..plan.problem().count() as usize),
                None => None,
            };
            self.batch_norm.accumulate(&plan, batch, flags, &mut moments)?;
        }
        self.batch_norm.population(&moments, &mut mean, &mut variance)?;
        self.results.push_population(variant, &moments, [mean, variance]);
        Ok(())
    }

    fn activation_state<'b>(&'b self, kept: &'b Kept<T>, source: ActivationSource) -> ActivationState<'b, T> {
        match source {
            ActivationSource::Output => ActivationState::Output(&kept.y),
            ActivationSource::Mask => ActivationState::Mask(kept.mask.as_deref().unwrap_or_default()),
            _ => ActivationState::Recompute { residual: self.residual.as_deref() },
        }
    }

    /// A tensor of NaN, so that an element nobody writes is seen.
    fn unwritten(&self) -> Vec<T> {
        vec![T::from_f64(f64::NAN); self.x.len()]
    }

    /// A mask for forward to write, if a backward is to read it.
    fn mask(&self) -> Option<Vec<u32>> {
        self.case.sources().contains(&ActivationSource::Mask).then(|| vec![!0; self.x.len().div_ceil(32)])
    }
}

/// The gradients of one backward.
struct Gradients<T> {
    input: Vec<T>,
    residual: Option<Vec<T>>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl<T: Element<Parameter = f32>> Gradients<T> {
    fn new(run: &Run<'_, T>) -> Self {
        let vector = || vec![f32::NAN; run.case.problem.channels as usize];
        let residual = run.residual.as_ref().map(|_| run.unwritten());
        Self { input: run.unwritten(), residual, gamma: vector(), beta: vector() }
    }

    fn push(self, variant: &Variant, results: &mut Results) {
        results.push("dx", variant, widened(&self.input));
        if let Some(residual) = &self.residual {
            results.push("dresidual", variant, widened(residual));
        }
        results.push("dweight", variant, self.gamma);
        results.push("dbias", variant, self.beta);
    }
}

/// In the element type, which the values are exact in.
fn stored<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f64(f64::from(value))).collect()
}

fn widened<T: Element>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.to_f64() as f32).collect()
}
