//! From statistics to outputs, as training and inference share it: normalise, scale-shift, residual, activation, mask.

use super::instances::Instances;
use super::renormalization::{Correction, corrected};
use super::{Element, check_length, check_optional, mask_words, parameter};
use crate::{Activation, Error, Problem};

/// What both forwards read and write.
pub(super) struct Forward<'a, T: Element> {
    pub activation: Activation,
    pub input: &'a [T],
    pub output: &'a mut [T],
    pub gamma: Option<&'a [T::Parameter]>,
    pub beta: Option<&'a [T::Parameter]>,
    pub residual: Option<&'a [T]>,
    pub activation_mask: Option<&'a mut [u32]>,
}

impl<T: Element> Forward<'_, T> {
    pub(super) fn check(&self, problem: Problem) -> Result<(), Error> {
        let channels = u64::from(problem.channels);
        check_length("input", self.input, problem.elements())?;
        check_length("output", self.output, problem.elements())?;
        check_optional("gamma", self.gamma, channels)?;
        check_optional("beta", self.beta, channels)?;
        check_optional("residual", self.residual, problem.elements())?;
        check_optional("activation_mask", self.activation_mask.as_deref(), mask_words(problem))?;
        if self.activation_mask.is_some() && !self.activation.is_piecewise_linear() {
            return Err(Error::UselessActivationMask { activation: self.activation });
        }
        Ok(())
    }

    /// One instance; bits of the mask are set only, so all must be 0 before the first instance.
    pub(super) fn instance(
        &mut self,
        instances: Instances<'_>,
        instance: usize,
        (mean, inverse): (f64, f64),
        correction: Option<Correction>,
    ) {
        let channel = instances.channel_of(instance);
        let (gamma, beta) = (parameter(self.gamma, channel, 1.0), parameter(self.beta, channel, 0.0));
        let (gamma, beta) = corrected(gamma, beta, correction);
        for index in instances.elements(instance) {
            if !instances.is_valid(index) {
                self.output[index] = T::from_f64(0.0);
                continue;
            }
            let normalised = (self.input[index].to_f64() - mean) * inverse;
            let mut t = gamma * normalised + beta;
            if let Some(residual) = self.residual {
                t += residual[index].to_f64();
            }
            self.output[index] = T::from_f64(self.activation.value(t));
            if let Some(mask) = &mut self.activation_mask {
                mask[index / 32] |= u32::from(t > 0.0) << (index % 32);
            }
        }
    }

    /// Makes every bit of the mask 0.
    pub(super) fn clear_mask(&mut self) {
        if let Some(mask) = &mut self.activation_mask {
            mask.fill(0);
        }
    }
}
