//! Backward through training statistics and through frozen statistics.

use super::instances::Instances;
use super::renormalization::{Correction, corrected, gamma_gradient};
use super::training::moments;
use super::{ActivationState, BatchNorm, Element, Plan, check_length, check_optional, inverse_deviation, parameter};
use crate::convention::{EmptyBatchPolicy, OneSamplePolicy};
use crate::{Activation, ChannelRenormalization, ChannelStatistics, Error, Problem};

/// A gradient to be written, and how.
#[derive(Debug)]
pub enum Gradient<'a, P> {
    /// The gradient replaces what the slice holds.
    Overwrite(&'a mut [P]),
    /// The gradient is added to what the slice holds.
    Accumulate(&'a mut [P]),
}

impl<P: Element> Gradient<'_, P> {
    pub(super) fn values(&self) -> &[P] {
        match self {
            Self::Overwrite(values) | Self::Accumulate(values) => values,
        }
    }

    pub(super) fn write(&mut self, index: usize, gradient: f64) {
        match self {
            Self::Overwrite(values) => values[index] = P::from_f64(gradient),
            Self::Accumulate(values) => values[index] = P::from_f64(values[index].to_f64() + gradient),
        }
    }
}

/// What backward through training statistics reads and writes. Tensors are row-major in the plan's shape.
///
/// Default: empty slices, nothing optional, and an activation that is recomputed without a residual.
#[derive(Debug)]
pub struct BackwardBuffers<'a, T: Element> {
    /// x as forward read it, M·C elements.
    pub input: &'a [T],
    /// g = dL/dy, M·C elements.
    pub output_gradient: &'a [T],
    /// γ, C values; absent means 1.
    pub gamma: Option<&'a [T::Parameter]>,
    /// β, C values; absent means 0. Read only where the activation is recomputed.
    pub beta: Option<&'a [T::Parameter]>,
    /// What forward saved, a record for each instance; absent: the statistics are taken from the input again.
    pub saved: Option<&'a [ChannelStatistics]>,
    /// How forward renormalised, a record for each instance; absent if it did not.
    pub renormalization: Option<&'a [ChannelRenormalization]>,
    /// Whether a position, `o·inner + i` of the plan's problem, holds anything but padding, as in
    /// forward; absent: all do.
    pub valid: Option<&'a [bool]>,
    /// What the activation's derivative is taken from; not read without an activation.
    pub activation: ActivationState<'a, T>,
    /// dL/dx, M·C elements.
    pub input_gradient: Option<Gradient<'a, T>>,
    /// dL/dγ, C values.
    pub gamma_gradient: Option<Gradient<'a, T::Parameter>>,
    /// dL/dβ, C values.
    pub beta_gradient: Option<Gradient<'a, T::Parameter>>,
    /// dL/dz, M·C elements.
    pub residual_gradient: Option<Gradient<'a, T>>,
}

impl<T: Element> Default for BackwardBuffers<'_, T> {
    fn default() -> Self {
        Self {
            input: &[],
            output_gradient: &[],
            gamma: None,
            beta: None,
            saved: None,
            renormalization: None,
            valid: None,
            activation: ActivationState::default(),
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            residual_gradient: None,
        }
    }
}

/// What backward through frozen statistics reads and writes. Tensors are row-major in the plan's shape.
///
/// Default: empty slices, nothing optional, and an activation that is recomputed without a residual.
#[derive(Debug)]
pub struct FrozenBackwardBuffers<'a, T: Element> {
    /// x as forward read it, M·C elements; needed only for dγ and for an activation that is recomputed.
    pub input: Option<&'a [T]>,
    /// g = dL/dy, M·C elements.
    pub output_gradient: &'a [T],
    /// γ, C values; absent means 1.
    pub gamma: Option<&'a [T::Parameter]>,
    /// β, C values; absent means 0. Read only where the activation is recomputed.
    pub beta: Option<&'a [T::Parameter]>,
    /// The mean that forward used: C values, or one for each instance under
    /// [`SegmentRunning::Separate`](crate::SegmentRunning::Separate).
    pub running_mean: &'a [T::Parameter],
    /// The variance that forward used, as many.
    pub running_variance: &'a [T::Parameter],
    /// Whether a position, `o·inner + i` of the plan's problem, holds anything but padding, as in
    /// forward; absent: all do.
    pub valid: Option<&'a [bool]>,
    /// What the activation's derivative is taken from; not read without an activation.
    pub activation: ActivationState<'a, T>,
    /// dL/dx, M·C elements.
    pub input_gradient: Option<Gradient<'a, T>>,
    /// dL/dγ, C values.
    pub gamma_gradient: Option<Gradient<'a, T::Parameter>>,
    /// dL/dβ, C values.
    pub beta_gradient: Option<Gradient<'a, T::Parameter>>,
    /// dL/dz, M·C elements.
    pub residual_gradient: Option<Gradient<'a, T>>,
}

impl<T: Element> Default for FrozenBackwardBuffers<'_, T> {
    fn default() -> Self {
        Self {
            input: None,
            output_gradient: &[],
            gamma: None,
            beta: None,
            running_mean: &[],
            running_variance: &[],
            valid: None,
            activation: ActivationState::default(),
            input_gradient: None,
            gamma_gradient: None,
            beta_gradient: None,
            residual_gradient: None,
        }
    }
}

/// The four optional results, checked.
struct Results<'a, T: Element> {
    input: Option<Gradient<'a, T>>,
    gamma: Option<Gradient<'a, T::Parameter>>,
    beta: Option<Gradient<'a, T::Parameter>>,
    residual: Option<Gradient<'a, T>>,
}

impl<T: Element> Results<'_, T> {
    fn check(&self, problem: Problem) -> Result<(), Error> {
        let channels = u64::from(problem.channels);
        check_optional("input_gradient", self.input.as_ref().map(Gradient::values), problem.elements())?;
        check_optional("gamma_gradient", self.gamma.as_ref().map(Gradient::values), channels)?;
        check_optional("beta_gradient", self.beta.as_ref().map(Gradient::values), channels)?;
        check_optional("residual_gradient", self.residual.as_ref().map(Gradient::values), problem.elements())
    }
}

/// What both backwards read.
struct Sources<'a, T: Element> {
    activation: Activation,
    state: ActivationState<'a, T>,
    input: Option<&'a [T]>,
    output_gradient: &'a [T],
    gamma: Option<&'a [T::Parameter]>,
    beta: Option<&'a [T::Parameter]>,
}

impl<T: Element> Sources<'_, T> {
    fn check(&self, problem: Problem) -> Result<(), Error> {
        let channels = u64::from(problem.channels);
        check_optional("input", self.input, problem.elements())?;
        check_length("output_gradient", self.output_gradient, problem.elements())?;
        check_optional("gamma", self.gamma, channels)?;
        check_optional("beta", self.beta, channels)?;
        self.state.check(problem, self.activation)
    }
}

/// What one instance was normalised with.
#[derive(Clone, Copy)]
struct Normalizer {
    mean: f64,
    inverse: f64,
    correction: Option<Correction>,
    through: Through,
}

/// What of the gradient flows through the statistics.
#[derive(Clone, Copy)]
pub(super) enum Through {
    /// Nothing: they do not depend on the input.
    Nothing,
    /// That of the instance's own elements.
    Own,
    /// That of a whole batch of which these elements are a part: the means of h and of h·x̂.
    Whole([f64; 2]),
}

/// Either backward, channel by channel; returns Σh and Σh·x̂ of every instance.
fn backward<T: Element>(
    instances: Instances<'_>,
    channels: u32,
    sources: &Sources<'_, T>,
    normalizer: impl Fn(usize) -> Normalizer,
    results: &mut Results<'_, T>,
) -> Vec<[f64; 2]> {
    let mut all = vec![[0.0; 2]; instances.len()];
    for channel in 0..channels as usize {
        let (mut dgamma, mut dbeta) = (0.0, 0.0);
        for instance in instances.of_channel(channel) {
            let normalizer = normalizer(instance);
            let [sum, product] = instance_backward(instances, instance, sources, normalizer, results);
            dgamma += gamma_gradient(product, sum, normalizer.correction);
            dbeta += sum;
            all[instance] = [sum, product];
        }
        if let Some(target) = &mut results.gamma {
            target.write(channel, dgamma);
        }
        if let Some(target) = &mut results.beta {
            target.write(channel, dbeta);
        }
    }
    all
}

/// One instance of either backward: dx and dz are written, Σh and Σh·x̂ returned.
fn instance_backward<T: Element>(
    instances: Instances<'_>,
    instance: usize,
    sources: &Sources<'_, T>,
    normalizer: Normalizer,
    results: &mut Results<'_, T>,
) -> [f64; 2] {
    let Normalizer { mean, inverse, correction, through } = normalizer;
    let channel = instances.channel_of(instance);
    let (gamma, beta) = (parameter(sources.gamma, channel, 1.0), parameter(sources.beta, channel, 0.0));
    let (gamma, beta) = corrected(gamma, beta, correction);
    // Without an input nothing that depends on it is written.
    let normalised = |index: usize| sources.input.map_or(0.0, |input| (input[index].to_f64() - mean) * inverse);
    // h, the gradient through the activation.
    let gradient = |index: usize| {
        let t = gamma * normalised(index) + beta;
        sources.state.gradient(sources.activation, index, t, sources.output_gradient[index].to_f64())
    };
    let (mut sum, mut product_sum) = (0.0, 0.0);
    for index in instances.valid(instance) {
        let gradient = gradient(index);
        sum += gradient;
        product_sum += gradient * normalised(index);
    }
    let count = instances.count(instance) as f64;
    let means = match through {
        Through::Nothing => None,
        Through::Own => Some([sum / count, product_sum / count]),
        Through::Whole(means) => Some(means),
    };
    for index in instances.elements(instance) {
        let (mut dx, mut dz) = (0.0, 0.0);
        if instances.is_valid(index) {
            dz = gradient(index);
            let centred = means.map_or(dz, |[mean, product_mean]| dz - mean - normalised(index) * product_mean);
            dx = gamma * inverse * centred;
        }
        if let Some(target) = &mut results.input {
            target.write(index, dx);
        }
        if let Some(target) = &mut results.residual {
            target.write(index, dz);
        }
    }
    [sum, product_sum]
}

impl BatchNorm {
    /// Backward through training statistics, where mean and variance depend on x.
    ///
    /// ```text
    /// h  = g·f'(t)        t = γ·x̂ + β + z
    /// dz = h
    /// dβ = Σ h
    /// dγ = Σ h·x̂
    /// dx = γ·r·( h − Σh/W − x̂·Σh·x̂/W )
    /// ```
    ///
    /// The sums in dx run over the instance. dβ and dγ are those of all instances of the channel added up: γ and β are
    /// shared. dx and dz are 0 at padding, where nothing is looked at.
    ///
    /// Through batch renormalization, where R and D are constants, γ' = γ·R and β' = γ·D + β take the place of γ and β:
    ///
    /// ```text
    /// t  = γ'·x̂ + β' + z        dγ = R·Σh·x̂ + D·Σh, of an instance        dx = γ'·r·( h − Σh/W − x̂·Σh·x̂/W )
    /// ```
    ///
    /// Without an activation h = g. f'(t) comes from what `activation` gives; where the activation is piecewise linear,
    /// h is selected between g and slope·g (0 for `Relu`, whatever g is). x̂, and t where it is recomputed, come from
    /// `saved`, or else from the statistics of the input.
    ///
    /// The paper's section 3 gives the chain rule; this is its closed form (as in PyTorch and XLA's `BatchNormGrad`).
    ///
    /// # Errors
    /// [`Error::WrongLength`], [`Error::ActivationSourceNotServed`], [`Error::NoGradientRequested`],
    /// [`Error::OneSample`] and [`Error::EmptyBatch`] by policy. Nothing is written then.
    ///
    /// An empty batch gives dγ = dβ = 0.
    pub fn backward<T: Element>(&self, plan: &Plan, buffers: BackwardBuffers<'_, T>) -> Result<(), Error> {
        let convention = self.descriptor.convention;
        let wanted = buffers.input_gradient.is_some()
            || buffers.gamma_gradient.is_some()
            || buffers.beta_gradient.is_some()
            || buffers.residual_gradient.is_some();
        let through = |_| Through::Own;
        self.gradients(plan, buffers, through, || match plan.segmentation.count() {
            _ if !wanted => Err(Error::NoGradientRequested),
            0 if convention.empty_batch == EmptyBatchPolicy::Error => Err(Error::EmptyBatch),
            1 if convention.one_sample == OneSamplePolicy::Error => Err(Error::OneSample),
            _ => Ok(()),
        })?;
        Ok(())
    }

    /// Backward through training statistics, however they depend on the input; Σh and Σh·x̂ of every instance.
    pub(super) fn gradients<T: Element>(
        &self,
        plan: &Plan,
        buffers: BackwardBuffers<'_, T>,
        through: impl Fn(usize) -> Through,
        admit: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Vec<[f64; 2]>, Error> {
        self.check(plan)?;
        let (problem, convention) = (plan.problem, self.descriptor.convention);
        let BackwardBuffers {
            input,
            output_gradient,
            gamma,
            beta,
            saved,
            renormalization,
            valid,
            activation: state,
            input_gradient,
            gamma_gradient,
            beta_gradient,
            residual_gradient,
        } = buffers;
        let activation = self.descriptor.activation;
        let sources = Sources { activation, state, input: Some(input), output_gradient, gamma, beta };
        sources.check(problem)?;
        check_optional("saved", saved, plan.segmentation.instances())?;
        check_optional("renormalization", renormalization, plan.segmentation.instances())?;
        let instances = Instances::new(problem, plan.segmentation, valid)?;
        let mut results =
            Results { input: input_gradient, gamma: gamma_gradient, beta: beta_gradient, residual: residual_gradient };
        results.check(problem)?;
        admit()?;
        let normalizer = |instance: usize| {
            let (mean, inverse) = match saved {
                Some(saved) => {
                    let saved = saved[instance];
                    (f64::from(saved.pivot) + f64::from(saved.offset), f64::from(saved.inverse_deviation))
                }
                None => {
                    let moments = moments(instances, input, instance);
                    (moments.mean, inverse_deviation(moments.variance, convention.epsilon))
                }
            };
            let correction = renormalization.map(|records| records[instance].into());
            Normalizer { mean, inverse, correction, through: through(instance) }
        };
        Ok(backward(instances, problem.channels, &sources, normalizer, &mut results))
    }

    /// Backward through frozen statistics, where mean and variance are constants (fine-tuning, evaluation mode).
    ///
    /// With `r = 1/√(running_variance + ε)` and `x̂ = (x − running_mean)·r`:
    ///
    /// ```text
    /// h = g·f'(t)        t = γ·x̂ + β + z
    /// dz = h        dβ = Σ h        dγ = Σ h·x̂        dx = h·γ·r
    /// ```
    ///
    /// Without an activation h = g. As PyTorch's `native_batch_norm_backward(train=False)` and oneDNN's
    /// `use_global_stats`. dx and dz are 0 at padding, where nothing is looked at. Under
    /// [`SegmentRunning::Separate`](crate::SegmentRunning::Separate) every instance has a mean and variance of its own.
    ///
    /// # Errors
    /// [`Error::WrongLength`], [`Error::ActivationSourceNotServed`], [`Error::NoGradientRequested`],
    /// [`Error::EmptyBatch`] by policy, and [`Error::MissingInput`] where dγ, or an activation that is recomputed,
    /// needs x. Nothing is written then.
    pub fn backward_frozen<T: Element>(&self, plan: &Plan, buffers: FrozenBackwardBuffers<'_, T>) -> Result<(), Error> {
        self.check(plan)?;
        let (problem, convention) = (plan.problem, self.descriptor.convention);
        let recorded = plan.recorded.instances();
        let FrozenBackwardBuffers {
            input,
            output_gradient,
            gamma,
            beta,
            running_mean,
            running_variance,
            valid,
            activation: state,
            input_gradient,
            gamma_gradient,
            beta_gradient,
            residual_gradient,
        } = buffers;
        let activation = self.descriptor.activation;
        let sources = Sources { activation, state, input, output_gradient, gamma, beta };
        sources.check(problem)?;
        check_length("running_mean", running_mean, recorded)?;
        check_length("running_variance", running_variance, recorded)?;
        let instances = Instances::new(problem, plan.recorded, valid)?;
        let mut results =
            Results { input: input_gradient, gamma: gamma_gradient, beta: beta_gradient, residual: residual_gradient };
        results.check(problem)?;
        if results.input.is_none() && results.gamma.is_none() && results.beta.is_none() && results.residual.is_none() {
            return Err(Error::NoGradientRequested);
        }
        if input.is_none() && (results.gamma.is_some() || state.reads_input(activation)) {
            return Err(Error::MissingInput);
        }
        if problem.count() == 0 && convention.empty_batch == EmptyBatchPolicy::Error {
            return Err(Error::EmptyBatch);
        }
        let normalizer = |instance: usize| Normalizer {
            mean: running_mean[instance].to_f64(),
            inverse: inverse_deviation(running_variance[instance].to_f64(), convention.epsilon),
            correction: None,
            through: Through::Nothing,
        };
        backward(instances, problem.channels, &sources, normalizer, &mut results);
        Ok(())
    }
}
