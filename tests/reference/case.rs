//! A problem in f64 with all that can be given, run forward and backward.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, FrozenBackwardBuffers, Gradient, InferenceBuffers, Plan,
    TrainingBuffers,
};
use wgpu_batch_norm::{Activation, Layout};

use super::activated;

/// Shapes of every rank and layout, with four values a channel and more.
pub(crate) const SHAPES: [(&[usize], Layout); 7] = [
    (&[4, 3], Layout::ChannelsFirst),
    (&[6, 2], Layout::ChannelsLast),
    (&[2, 3, 5], Layout::ChannelsFirst),
    (&[2, 5, 3], Layout::ChannelsLast),
    (&[2, 2, 3, 3], Layout::ChannelsFirst),
    (&[2, 3, 3, 2], Layout::ChannelsLast),
    (&[2, 2, 2, 3, 2], Layout::ChannelsFirst),
];

#[derive(Clone)]
pub(crate) struct Case {
    pub bn: BatchNorm,
    pub plan: Plan,
    pub shape: &'static [usize],
    pub input: Vec<f64>,
    pub output_gradient: Vec<f64>,
    pub residual: Option<Vec<f64>>,
    pub gamma: Option<Vec<f64>>,
    pub beta: Option<Vec<f64>>,
    /// Mean and variance, for inference and backward through frozen statistics.
    pub frozen: Option<(Vec<f64>, Vec<f64>)>,
}

pub(crate) struct Forward {
    pub output: Vec<f64>,
    /// Empty for an activation that has no use for it.
    pub mask: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gradients {
    pub input: Vec<f64>,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    pub residual: Vec<f64>,
}

impl Case {
    pub(crate) fn random(
        shape: &'static [usize],
        layout: Layout,
        activation: Activation,
        frozen: bool,
        seed: u64,
    ) -> Self {
        let (bn, plan) = activated(shape, layout, activation);
        let (elements, channels) = (plan.problem().elements() as usize, plan.problem().channels as usize);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut uniform = |count: usize, low: f64, high: f64| -> Vec<f64> {
            (0..count).map(|_| rng.random_range(low..high)).collect()
        };
        Self {
            bn,
            plan,
            shape,
            input: uniform(elements, -2.0, 3.0),
            output_gradient: uniform(elements, -1.0, 1.0),
            residual: Some(uniform(elements, -1.0, 1.0)),
            gamma: Some(uniform(channels, -1.5, 1.5)),
            beta: Some(uniform(channels, -1.0, 1.0)),
            frozen: frozen.then(|| (uniform(channels, -1.0, 1.0), uniform(channels, 0.3, 2.0))),
        }
    }

    /// The same problem with or without its residual.
    pub(crate) fn with_residual(mut self, residual: bool) -> Self {
        self.residual = self.residual.filter(|_| residual);
        self
    }

    /// The same problem with another activation.
    pub(crate) fn with_activation(&self, activation: Activation) -> Self {
        let (bn, plan) = activated(self.shape, self.bn.descriptor().layout, activation);
        Self { bn, plan, ..self.clone() }
    }

    /// The same problem with every absent part spelled out.
    pub(crate) fn explicit(&self) -> Self {
        let (elements, channels) = (self.input.len(), self.plan.problem().channels as usize);
        let mut case = self.clone();
        case.residual.get_or_insert_with(|| vec![0.0; elements]);
        case.gamma.get_or_insert_with(|| vec![1.0; channels]);
        case.beta.get_or_insert_with(|| vec![0.0; channels]);
        case
    }

    pub(crate) fn activation(&self) -> Activation {
        self.bn.descriptor().activation
    }

    /// The channel of an element.
    pub(crate) fn channel(&self, index: usize) -> usize {
        let problem = self.plan.problem();
        index / problem.inner as usize % problem.channels as usize
    }

    pub(crate) fn forward(&self) -> Forward {
        let mut output = vec![0.0; self.input.len()];
        let words = if self.activation().is_piecewise_linear() { output.len().div_ceil(32) } else { 0 };
        let mut mask = vec![u32::MAX; words];
        let activation_mask = (words > 0).then_some(mask.as_mut_slice());
        let (gamma, beta, residual) = (self.gamma.as_deref(), self.beta.as_deref(), self.residual.as_deref());
        let input = &self.input;
        match &self.frozen {
            None => self.bn.training(
                &self.plan,
                TrainingBuffers {
                    input,
                    output: &mut output,
                    gamma,
                    beta,
                    residual,
                    activation_mask,
                    ..Default::default()
                },
            ),
            Some((running_mean, running_variance)) => self.bn.inference(
                &self.plan,
                InferenceBuffers {
                    input,
                    output: &mut output,
                    gamma,
                    beta,
                    running_mean,
                    running_variance,
                    residual,
                    activation_mask,
                    ..Default::default()
                },
            ),
        }
        .unwrap();
        Forward { output, mask }
    }

    /// The state that every activation can be given.
    pub(crate) fn recompute(&self) -> ActivationState<'_, f64> {
        ActivationState::Recompute { residual: self.residual.as_deref() }
    }

    /// All gradients, overwritten or added to what is given.
    pub(crate) fn backward(&self, activation: ActivationState<'_, f64>, onto: Option<Gradients>) -> Gradients {
        let (elements, channels) = (self.input.len(), self.plan.problem().channels as usize);
        let accumulates = onto.is_some();
        let mut results = onto.unwrap_or_else(|| Gradients {
            input: vec![f64::NAN; elements],
            gamma: vec![f64::NAN; channels],
            beta: vec![f64::NAN; channels],
            residual: vec![f64::NAN; elements],
        });
        fn gradient(accumulates: bool, values: &mut [f64]) -> Option<Gradient<'_, f64>> {
            Some(if accumulates { Gradient::Accumulate(values) } else { Gradient::Overwrite(values) })
        }
        let input_gradient = gradient(accumulates, &mut results.input);
        let gamma_gradient = gradient(accumulates, &mut results.gamma);
        let beta_gradient = gradient(accumulates, &mut results.beta);
        let residual_gradient = gradient(accumulates, &mut results.residual);
        let (output_gradient, gamma, beta) = (&self.output_gradient, self.gamma.as_deref(), self.beta.as_deref());
        match &self.frozen {
            None => self.bn.backward(
                &self.plan,
                BackwardBuffers {
                    input: &self.input,
                    output_gradient,
                    gamma,
                    beta,
                    saved: None,
                    activation,
                    input_gradient,
                    gamma_gradient,
                    beta_gradient,
                    residual_gradient,
                    ..Default::default()
                },
            ),
            Some((running_mean, running_variance)) => self.bn.backward_frozen(
                &self.plan,
                FrozenBackwardBuffers {
                    input: Some(&self.input),
                    output_gradient,
                    gamma,
                    beta,
                    running_mean,
                    running_variance,
                    activation,
                    input_gradient,
                    gamma_gradient,
                    beta_gradient,
                    residual_gradient,
                    ..Default::default()
                },
            ),
        }
        .unwrap();
        results
    }
}
