//! Backward from the output, without the input.

use super::instances::Instances;
use super::{BatchNorm, Element, Gradient, Plan, check_length, check_optional, parameter};
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
    /// What forward saved, a record for each instance.
    pub saved: &'a [ChannelStatistics],
    /// Whether a position, `o·inner + i` of the plan's problem, holds anything but padding, as in
    /// forward; absent: all do.
    pub valid: Option<&'a [bool]>,
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
    /// x̂  = (f⁻¹(y) − β)/γ, but no larger than √M
    /// h  = g·f'(t), the sign of t being that of y
    /// dβ = Σ h        dγ = Σ h·x̂        dx = γ·r·( h − Σh/W − x̂·Σh·x̂/W )
    /// ```
    ///
    /// dβ and dγ are sums over the batch, those in dx over the instance, as in [`BatchNorm::backward`]; dx is 0 at
    /// padding. M counts the instance's elements, padding included: Σx̂² is at most M, so x̂ of a y that is not rounded is
    /// never limited. Where γ is so small that the rounding of y alone exceeds √M·|γ|, x̂ is unknown, and the limit keeps
    /// dx within |γ|·r·(M + 2) times the largest |h|.
    ///
    /// y is all that is known of t: a t that rounds to 0 counts as 0, and one within rounding of 0 has the sign that
    /// forward's rounding gave it.
    /// For the identity and leaky ReLU with a slope, and without a residual and without batch renormalization.
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
        let OutputBackwardBuffers { output, output_gradient, gamma, beta, saved, valid, .. } = buffers;
        let (mut dx, mut dgamma, mut dbeta) = (buffers.input_gradient, buffers.gamma_gradient, buffers.beta_gradient);
        check_length("output", output, problem.elements())?;
        check_length("output_gradient", output_gradient, problem.elements())?;
        check_optional("gamma", gamma, channels)?;
        check_optional("beta", beta, channels)?;
        check_length("saved", saved, plan.segmentation.instances())?;
        let instances = Instances::new(problem, plan.segmentation, valid)?;
        self.descriptor.activation.check_invertible()?;
        if dx.is_none() && dgamma.is_none() && dbeta.is_none() {
            return Err(Error::NoGradientRequested);
        }
        check_optional("input_gradient", dx.as_ref().map(Gradient::values), problem.elements())?;
        check_optional("gamma_gradient", dgamma.as_ref().map(Gradient::values), channels)?;
        check_optional("beta_gradient", dbeta.as_ref().map(Gradient::values), channels)?;
        match (plan.segmentation.count(), convention.empty_batch, convention.one_sample) {
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
        for channel in 0..problem.channels as usize {
            let (gamma, beta) = (gamma_of(channel), parameter(beta, channel, 0.0));
            let largest = (plan.segmentation.count() as f64).sqrt();
            // h and x̂.
            let terms = |index: usize| {
                let (y, g) = (output[index].to_f64(), output_gradient[index].to_f64());
                let (t, h) = if y <= 0.0 { (y / slope, g * slope) } else { (y, g) };
                let normalised = (t - beta) / gamma;
                (h, if normalised.abs() > largest { largest.copysign(normalised) } else { normalised })
            };
            let (mut channel_sum, mut channel_product_sum) = (0.0, 0.0);
            for instance in instances.of_channel(channel) {
                let (mut sum, mut product_sum) = (0.0, 0.0);
                for index in instances.valid(instance) {
                    let (h, normalised) = terms(index);
                    sum += h;
                    product_sum += h * normalised;
                }
                channel_sum += sum;
                channel_product_sum += product_sum;
                let Some(target) = &mut dx else { continue };
                let (count, inverse) = (instances.count(instance) as f64, f64::from(saved[instance].inverse_deviation));
                for index in instances.elements(instance) {
                    if !instances.is_valid(index) {
                        target.write(index, 0.0);
                        continue;
                    }
                    let (h, normalised) = terms(index);
                    target.write(index, gamma * inverse * (h - sum / count - normalised * (product_sum / count)));
                }
            }
            if let Some(target) = &mut dgamma {
                target.write(channel, channel_product_sum);
            }
            if let Some(target) = &mut dbeta {
                target.write(channel, channel_sum);
            }
        }
        Ok(())
    }
}
