//! Folding inference into the weight and bias of the layer before it.

use super::instances::Instances;
use super::{BatchNorm, Element, Plan, check_length, check_optional, inverse_deviation, parameter};
use crate::{Error, Segmentation};

/// What folding reads and writes. Vectors have C values, one an output channel.
///
/// Default: empty slices, and no bias, gamma or beta.
#[derive(Debug)]
pub struct FoldBuffers<'a, T: Element> {
    /// W, row-major in the plan's shape, M·C elements.
    pub weight: &'a [T],
    /// b, C values; absent means 0.
    pub bias: Option<&'a [T::Parameter]>,
    /// γ, C values; absent means 1.
    pub gamma: Option<&'a [T::Parameter]>,
    /// β, C values; absent means 0.
    pub beta: Option<&'a [T::Parameter]>,
    /// The recorded mean, C values.
    pub running_mean: &'a [T::Parameter],
    /// The recorded variance, C values.
    pub running_variance: &'a [T::Parameter],
    /// W', M·C elements, overwritten.
    pub folded_weight: &'a mut [T],
    /// b', C values, overwritten.
    pub folded_bias: &'a mut [T::Parameter],
}

impl<T: Element> Default for FoldBuffers<'_, T> {
    fn default() -> Self {
        Self {
            weight: &[],
            bias: None,
            gamma: None,
            beta: None,
            running_mean: &[],
            running_variance: &[],
            folded_weight: &mut [],
            folded_bias: &mut [],
        }
    }
}

impl BatchNorm {
    /// Folds inference into the convolution or fully connected layer before it, whose output it normalises, so that the
    /// layer alone gives what both gave. Per output channel:
    ///
    /// ```text
    /// W' = W·γ·r        b' = (b − running_mean)·γ·r + β        r = 1/√(running_variance + ε)
    /// ```
    ///
    /// The plan's shape is that of the weight, as `outer × channels × inner` with the layer's *output* channels as its
    /// channels:
    ///
    /// | weight | shape |
    /// |---|---|
    /// | PyTorch and ONNX convolution, `[O, I, kh, kw]` | `Shape::flat(1, O, I * kh * kw)` |
    /// | PyTorch `Linear`, `[O, I]` | `Shape::flat(1, O, I)` |
    /// | PyTorch transposed convolution, `[I, O, kh, kw]` | `Shape::flat(I, O, kh * kw)` |
    /// | Keras convolution, `[kh, kw, I, O]`, and dense, `[I, O]` | `Shape::flat(kh * kw * I, O, 1)` |
    ///
    /// The activation is no part of it: it stays to be applied to the layer's output.
    ///
    /// ```
    /// use wgpu_batch_norm::{BatchNormDescriptor, Convention, Shape, reference};
    /// let convention = Convention { epsilon: 0.0, ..Convention::pytorch() };
    /// let bn = reference::BatchNorm::new(&BatchNormDescriptor { channels: 2, convention, ..Default::default() })?;
    /// // Two output channels of 1·1·2 weights each, as PyTorch has them.
    /// let (mut weight, mut bias) = ([0.0_f32; 4], [0.0_f32; 2]);
    /// bn.fold(&bn.plan(&Shape::flat(1, 2, 2))?, reference::FoldBuffers {
    ///     weight: &[1.0, 2.0, 3.0, 4.0],
    ///     bias: Some(&[5.0, 6.0]),
    ///     gamma: Some(&[2.0, 3.0]),
    ///     running_mean: &[1.0, 2.0],
    ///     running_variance: &[4.0, 1.0],
    ///     folded_weight: &mut weight,
    ///     folded_bias: &mut bias,
    ///     ..Default::default()
    /// })?;
    /// assert_eq!((weight, bias), ([1.0, 2.0, 9.0, 12.0], [4.0, 12.0]));
    /// # Ok::<(), wgpu_batch_norm::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongLength`], [`Error::SegmentedFold`] for a slice of another length, [`Error::PlanMismatch`]. Nothing is written then.
    pub fn fold<T: Element>(&self, plan: &Plan, buffers: FoldBuffers<'_, T>) -> Result<(), Error> {
        self.check(plan)?;
        if plan.recorded.segments() > 1 {
            return Err(Error::SegmentedFold);
        }
        let problem = plan.problem;
        let channels = u64::from(problem.channels);
        let FoldBuffers { weight, bias, gamma, beta, running_mean, running_variance, folded_weight, folded_bias } =
            buffers;
        check_length("weight", weight, problem.elements())?;
        check_optional("bias", bias, channels)?;
        check_optional("gamma", gamma, channels)?;
        check_optional("beta", beta, channels)?;
        check_length("running_mean", running_mean, channels)?;
        check_length("running_variance", running_variance, channels)?;
        check_length("folded_weight", folded_weight, problem.elements())?;
        check_length("folded_bias", folded_bias, channels)?;
        let instances = Instances::new(problem, Segmentation::whole(problem), None)?;
        for channel in 0..problem.channels as usize {
            let inverse = inverse_deviation(running_variance[channel].to_f64(), self.descriptor.convention.epsilon);
            let scale = parameter(gamma, channel, 1.0) * inverse;
            for index in instances.elements(channel) {
                folded_weight[index] = T::from_f64(weight[index].to_f64() * scale);
            }
            let centred = parameter(bias, channel, 0.0) - running_mean[channel].to_f64();
            folded_bias[channel] = T::Parameter::from_f64(centred * scale + parameter(beta, channel, 0.0));
        }
        Ok(())
    }
}
