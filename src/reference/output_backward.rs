//! Backward from the output, without the input.

use super::{BatchNorm, Element, Gradient, Plan, channel_indices, check_length, check_optional, parameter};
use crate::activation::Activation;
use crate::convention::{EmptyBatchPolicy, OneSamplePolicy};
use crate::{ChannelStatistics, Error};

/// What backward from the output reads and writes. Tensors are row-major in the plan's shape.
#[derive(Debug)]
pub struct OutputBackwardBuffers<'a, T: Element> {
    /// y as forward wrote it, M·C elements.
    pub output: &'a [T],
    /// g = dL/dy, M·C elements.
    pub output_gradient: &'a [T],
    /// γ as forward used it, C values; absent means 1.
    pub gamma: Option<&'a [T::Parameter]>,
    /// β as forward used it, C values; absent means 0.
    pub beta: Option<&'a [T::Parameter]>,
    /// What forward saved, C records.
    pub saved: &'a [ChannelStatistics],
    /// dL/dx, M·C elements.
    pub input_gradient: Option<Gradient<'a, T>>,
    /// dL/dγ, C values.
    pub gamma_gradient: Option<Gradient<'a, T::Parameter>>,
    /// dL/dβ, C values.
    pub beta_gradient: Option<Gradient<'a, T::Parameter>>,
}

impl BatchNorm {
    /// Backward through training statistics from the output, so that x need not be kept (In-Place Activated BatchNorm, Rota
    /// Bulò, Porzi and Kontschieder, arXiv 1712.02616), with gamma as it is, of either sign.
    ///
    /// ```text
    /// x̂  = (f⁻¹(y) − β)/γ
    /// h  = g·f'(t), the sign of t being that of y
    /// dβ = Σ h        dγ = Σ h·x̂        dx = γ·r·( h − dβ/M − x̂·dγ/M )
    /// ```
    ///
    /// For the identity and leaky ReLU with a slope, and without a residual.
    ///
    /// # Errors
    /// [`Error::WrongLength`], [`Error::NotInvertible`], [`Error::NoGradientRequested`], [`Error::ZeroGamma`],
    /// [`Error::OneSample`] and [`Error::EmptyBatch`] by policy. Nothing is written then. An empty batch gives dγ = dβ = 0.
    pub fn backward_from_output<T: Element>(
        &self,
        plan: &Plan,
        buffers: OutputBackwardBuffers<'_, T>,
    ) -> Result<(), Error> {
        self.check(plan)?;
        let (problem, convention) = (plan.problem, self.descriptor.convention);
        let channels = u64::from(problem.channels);
        let OutputBackwardBuffers { output, output_gradient, gamma, beta, saved, .. } = buffers;
        let (mut dx, mut dgamma, mut dbeta) = (buffers.input_gradient, buffers.gamma_gradient, buffers.beta_gradient);
        check_length("output", output, problem.elements())?;
        check_length("output_gradient", output_gradient, problem.elements())?;
        check_optional("gamma", gamma, channels)?;
        check_optional("beta", beta, channels)?;
        check_length("saved", saved, channels)?;
        self.descriptor.activation.check_invertible()?;
        if dx.is_none() && dgamma.is_none() && dbeta.is_none() {
            return Err(Error::NoGradientRequested);
        }
        check_optional("input_gradient", dx.as_ref().map(Gradient::values), problem.elements())?;
        check_optional("gamma_gradient", dgamma.as_ref().map(Gradient::values), channels)?;
        check_optional("beta_gradient", dbeta.as_ref().map(Gradient::values), channels)?;
        match (problem.count(), convention.empty_batch, convention.one_sample) {
            (0, EmptyBatchPolicy::Error, _) => return Err(Error::EmptyBatch),
            (1, _, OneSamplePolicy::Error) => return Err(Error::OneSample),
            _ => {}
        }
        let gamma_of = |channel| parameter(gamma, channel, 1.0);
        if let Some(channel) = (0..problem.channels as usize).find(|&channel| gamma_of(channel) == 0.0) {
            return Err(Error::ZeroGamma { channel });
        }
        let slope = match self.descriptor.activation {
            Activation::LeakyRelu { slope } => slope,
            _ => 1.0,
        };
        for (channel, saved) in saved.iter().enumerate() {
            let (gamma, beta) = (gamma_of(channel), parameter(beta, channel, 0.0));
            let inverse = f64::from(saved.inverse_deviation);
            // h and x̂.
            let terms = |index: usize| {
                let (y, g) = (output[index].to_f64(), output_gradient[index].to_f64());
                let (t, h) = if y <= 0.0 { (y / slope, g * slope) } else { (y, g) };
                (h, (t - beta) / gamma)
            };
            let (mut sum, mut product_sum) = (0.0, 0.0);
            for index in channel_indices(problem, channel) {
                let (h, normalised) = terms(index);
                sum += h;
                product_sum += h * normalised;
            }
            if let Some(target) = &mut dgamma {
                target.write(channel, product_sum);
            }
            if let Some(target) = &mut dbeta {
                target.write(channel, sum);
            }
            if let Some(target) = &mut dx {
                let count = problem.count() as f64;
                for index in channel_indices(problem, channel) {
                    let (h, normalised) = terms(index);
                    target.write(index, gamma * inverse * (h - sum / count - normalised * (product_sum / count)));
                }
            }
        }
        Ok(())
    }
}
