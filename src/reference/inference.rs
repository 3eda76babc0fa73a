//! Inference from running statistics.

use super::{BatchNorm, Element, Plan, channel_indices, check_length, check_optional, inverse_deviation, parameter};
use crate::Error;

/// What inference reads and writes. Tensors are row-major in the plan's shape, vectors have C values.
#[derive(Debug)]
pub struct InferenceBuffers<'a, T: Element> {
    /// x, M·C elements.
    pub input: &'a [T],
    /// y, M·C elements, overwritten.
    pub output: &'a mut [T],
    /// γ, C values; absent means 1.
    pub gamma: Option<&'a [T::Parameter]>,
    /// β, C values; absent means 0.
    pub beta: Option<&'a [T::Parameter]>,
    /// The recorded mean, C values.
    pub running_mean: &'a [T::Parameter],
    /// The recorded variance, C values.
    pub running_variance: &'a [T::Parameter],
}

impl BatchNorm {
    /// Inference: `y = γ·(x − running_mean)/√(running_variance + ε) + β` (the paper's algorithm 2, line 11).
    ///
    /// # Errors
    /// [`Error::WrongLength`] for a slice of another length. Nothing is written then.
    pub fn inference<T: Element>(&self, plan: &Plan, buffers: InferenceBuffers<'_, T>) -> Result<(), Error> {
        self.check(plan)?;
        let problem = plan.problem;
        let channels = u64::from(problem.channels);
        let InferenceBuffers { input, output, gamma, beta, running_mean, running_variance } = buffers;
        check_length("input", input, problem.elements())?;
        check_length("output", output, problem.elements())?;
        check_optional("gamma", gamma, channels)?;
        check_optional("beta", beta, channels)?;
        check_length("running_mean", running_mean, channels)?;
        check_length("running_variance", running_variance, channels)?;
        for channel in 0..problem.channels as usize {
            let mean = running_mean[channel].to_f64();
            let inverse = inverse_deviation(running_variance[channel].to_f64(), self.descriptor.convention.epsilon);
            let (gamma, beta) = (parameter(gamma, channel, 1.0), parameter(beta, channel, 0.0));
            for index in channel_indices(problem, channel) {
                let normalised = (input[index].to_f64() - mean) * inverse;
                output[index] = T::from_f64(gamma * normalised + beta);
            }
        }
        Ok(())
    }
}
