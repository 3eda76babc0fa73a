//! Inference from running statistics.

use super::forward::Forward;
use super::instances::Instances;
use super::{BatchNorm, Element, Plan, check_length, inverse_deviation};
use crate::Error;

/// What inference reads and writes. Tensors are row-major in the plan's shape, gamma and beta have C values, and
/// what was recorded C, or one for each instance under [`SegmentRunning::Separate`](crate::SegmentRunning::Separate).
///
/// Default: empty slices, and nothing optional.
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
    /// The recorded mean.
    pub running_mean: &'a [T::Parameter],
    /// The recorded variance.
    pub running_variance: &'a [T::Parameter],
    /// z, M·C elements, added before the activation.
    pub residual: Option<&'a [T]>,
    /// ⌈M·C/32⌉ words, overwritten when given: bit `e % 32` of word `e / 32` is 1 where t > 0 for element `e`, and 0
    /// at padding and past the last element. For activations that are piecewise linear only.
    pub activation_mask: Option<&'a mut [u32]>,
    /// Whether a position, `o·inner + i` of the plan's problem, holds anything but padding; absent: all do.
    pub valid: Option<&'a [bool]>,
}

impl<T: Element> Default for InferenceBuffers<'_, T> {
    fn default() -> Self {
        Self {
            input: &[],
            output: &mut [],
            gamma: None,
            beta: None,
            running_mean: &[],
            running_variance: &[],
            residual: None,
            activation_mask: None,
            valid: None,
        }
    }
}

impl BatchNorm {
    /// Inference (the paper's algorithm 2, line 11), then the residual and the activation f.
    ///
    /// ```text
    /// y = f( γ·(x − running_mean)/√(running_variance + ε) + β + z )        0 at padding
    /// ```
    ///
    /// Under [`SegmentRunning::Separate`](crate::SegmentRunning::Separate) every instance has a recorded mean and
    /// variance of its own. Nothing of x and z at padding is looked at.
    ///
    /// # Errors
    /// [`Error::WrongLength`] for a slice of another length, [`Error::UselessActivationMask`]. Nothing is written then.
    pub fn inference<T: Element>(&self, plan: &Plan, buffers: InferenceBuffers<'_, T>) -> Result<(), Error> {
        self.check(plan)?;
        let problem = plan.problem;
        let recorded = plan.recorded.instances();
        let InferenceBuffers {
            input,
            output,
            gamma,
            beta,
            running_mean,
            running_variance,
            residual,
            activation_mask,
            valid,
        } = buffers;
        let activation = self.descriptor.activation;
        let mut forward = Forward { activation, input, output, gamma, beta, residual, activation_mask };
        forward.check(problem)?;
        check_length("running_mean", running_mean, recorded)?;
        check_length("running_variance", running_variance, recorded)?;
        let instances = Instances::new(problem, plan.recorded, valid)?;
        forward.clear_mask();
        for instance in 0..instances.len() {
            let mean = running_mean[instance].to_f64();
            let inverse = inverse_deviation(running_variance[instance].to_f64(), self.descriptor.convention.epsilon);
            forward.instance(instances, instance, (mean, inverse), None);
        }
        Ok(())
    }
}
