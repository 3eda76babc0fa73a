//! Both backwards.

use super::OneSample;
use super::options::{
    BackwardOptions, CompanionUse, Derivative, Fused, GradientMode, flag, map_flags, parameter_flags, sum_flags,
};
use crate::Error;
use crate::activation::{Activation, ActivationSource};
use crate::plan::kernel::{Elementwise, Kernel, Normalizer, Operation, Reduction};
use crate::plan::{Dispatch, Geometries, Laid, Params, Plan};

impl Plan {
    /// [statistics → finalize →] one dispatch, or gradient sums → merge and map, or gradient sums → finalize; with padding or
    /// renormalization prepare → gradient sums → conclude [→ map]; [→ gradients that segments share].
    pub(crate) fn backward(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_backward(&options)?;
        let laid = &self.batch;
        self.admit(laid.count(), OneSample::Checked)?;
        let Some(geometries) = &laid.geometries else { return self.empty_gradients(&options) };
        let valid = flag(options.valid, Params::HAS_VALID);
        let mut dispatches = Vec::new();
        if !options.saved {
            let geometry = &geometries.reduction;
            let kernel = Kernel::Reduce(Reduction::Statistics, laid.walk(geometry, options.valid));
            let params = Params { flags: valid, ..laid.params(self) };
            dispatches.push(laid.over_tensor(self, kernel, CompanionUse::None, geometry, params)?);
            let params = Params { flags: Params::SAVES_STATISTICS | valid, ..laid.params(self) };
            dispatches.push(laid.finalize(self, Kernel::FinalizeStatistics, geometry.slots, params)?);
        }
        dispatches.extend(if options.valid || options.renormalization {
            self.prepared_gradients(Operation::Backward, laid, &options)?
        } else {
            self.gradients(Operation::Backward, laid, geometries, &options)?
        });
        self.share_gradients(laid, &options, dispatches)
    }

    /// As [`Plan::backward`], without statistics; the input gradient and that of the residual need no reduction.
    pub(crate) fn backward_frozen(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_backward(&options)?;
        let recomputes = self.descriptor.activation != Activation::Identity
            && options.derivative.source() == ActivationSource::Recompute;
        if !options.input && (options.gamma_gradient != GradientMode::Omit || recomputes) {
            return Err(Error::MissingInput);
        }
        let laid = &self.recorded;
        self.admit(laid.count(), OneSample::Unchecked)?;
        let Some(geometries) = &laid.geometries else { return self.empty_gradients(&options) };
        let fused = Fused::backward(self.descriptor.activation, &options);
        let dispatches = if options.valid {
            self.prepared_gradients(Operation::FrozenBackward, laid, &options)?
        } else if options.wants_sums() {
            self.gradients(Operation::FrozenBackward, laid, geometries, &options)?
        } else {
            let source = Normalizer::of_frozen(fused.fusion);
            let mut dispatches = Vec::new();
            let params = Params { flags: map_flags(&options), ..laid.params(self) };
            if source == Normalizer::Prepared {
                dispatches.push(laid.finalize(self, Kernel::Prepare(Normalizer::Running), 1, params)?);
            }
            let geometry = &geometries.inference;
            let map = Elementwise::FrozenInputGradient(source, fused.fusion);
            let map = Kernel::Apply(map, laid.walk(geometry, false));
            dispatches.push(laid.over_tensor(self, map, fused.companion, geometry, params)?);
            dispatches
        };
        self.share_gradients(laid, &options, dispatches)
    }

    fn check_backward(&self, options: &BackwardOptions) -> Result<(), Error> {
        if !options.wants_sums() && !options.wants_map() {
            return Err(Error::NoGradientRequested);
        }
        let activation = self.descriptor.activation;
        if options.derivative == Derivative::Inverted {
            activation.check_invertible()?;
        }
        activation.check_source(options.derivative.source())?;
        let returns_residual = options.residual_gradient != GradientMode::Omit;
        if returns_residual && activation != Activation::Identity && options.derivative == Derivative::Recompute {
            return Err(Error::MissingResidual);
        }
        Ok(())
    }

    fn gradients(
        &self,
        operation: Operation,
        laid: &Laid,
        geometries: &Geometries,
        options: &BackwardOptions,
    ) -> Result<Vec<Dispatch>, Error> {
        let fused = Fused::backward(self.descriptor.activation, options);
        if !options.wants_map() {
            let geometry = &geometries.reduction;
            let reduce = Kernel::Reduce(operation.reduction(fused.fusion), laid.walk(geometry, false));
            let params = Params { flags: parameter_flags(options), ..laid.params(self) };
            return Ok(vec![
                laid.over_tensor(self, reduce, fused.companion, geometry, params)?,
                self.finalize_gradients(laid, geometry.slots, options)?,
            ]);
        }
        let choice = laid.choice(self, operation, fused, geometries)?;
        let flags = map_flags(options) | laid.sum_flags(options);
        laid.reduce_and_map(self, operation, fused, choice, Params { flags, ..laid.params(self) }, 0)
    }

    /// By coefficients that are prepared first.
    fn prepared_gradients(
        &self,
        operation: Operation,
        laid: &Laid,
        options: &BackwardOptions,
    ) -> Result<Vec<Dispatch>, Error> {
        let Some((reduction, elementwise)) = laid.prepared_geometries(operation)? else { return Ok(Vec::new()) };
        let fused = Fused::backward(self.descriptor.activation, options);
        let frozen = operation == Operation::FrozenBackward;
        let common = flag(options.valid, Params::HAS_VALID) | flag(options.renormalization, Params::RENORMALIZES);
        let with = |flags: u32| Params { flags: flags | common, ..laid.params(self) };
        let walk = |geometry| laid.walk(geometry, options.valid);
        let source = if frozen { Normalizer::Running } else { Normalizer::Saved };
        let mut dispatches = vec![laid.finalize(self, Kernel::Prepare(source), 1, with(parameter_flags(options)))?];
        // The input gradient through training statistics needs the sums, whoever else does.
        if !frozen || options.wants_sums() {
            let reduce = Kernel::Reduce(Reduction::GradientSums(Normalizer::Prepared, fused.fusion), walk(reduction));
            dispatches.push(laid.over_tensor(self, reduce, fused.companion, reduction, with(0))?);
            let conclude = if frozen { Kernel::FinalizeGradients } else { Kernel::ConcludeGradients };
            let conclusion = laid.finalize(self, conclude, reduction.slots, with(laid.sum_flags(options)))?;
            dispatches.push(Dispatch { per_instance: laid.segments() > 1, ..conclusion });
        }
        if options.wants_map() {
            let map = if frozen {
                Elementwise::FrozenInputGradient(Normalizer::Prepared, fused.fusion)
            } else {
                Elementwise::InputGradient(fused.fusion)
            };
            let map = Kernel::Apply(map, walk(elementwise));
            dispatches.push(laid.over_tensor(self, map, fused.companion, elementwise, with(map_flags(options)))?);
        }
        Ok(dispatches)
    }

    /// Without elements the sums are 0; the input gradient is empty.
    fn empty_gradients(&self, options: &BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        if !options.wants_sums() {
            return Ok(Vec::new());
        }
        let channels = self.descriptor.channels;
        let params = Params { flags: sum_flags(options), channels, ..self.batch.params(self) };
        let dispatch = self.batch.finalize(self, Kernel::FinalizeGradients, 0, params)?;
        Ok(vec![dispatch])
    }

    fn finalize_gradients(&self, laid: &Laid, slots: u64, options: &BackwardOptions) -> Result<Dispatch, Error> {
        let params = Params { flags: laid.sum_flags(options), ..laid.params(self) };
        let dispatch = laid.finalize(self, Kernel::FinalizeGradients, slots, params)?;
        Ok(Dispatch { per_instance: laid.segments() > 1, ..dispatch })
    }

    /// Adds the dispatch that adds up what segments have found for the parameters that they share.
    fn share_gradients(
        &self,
        laid: &Laid,
        options: &BackwardOptions,
        mut dispatches: Vec<Dispatch>,
    ) -> Result<Vec<Dispatch>, Error> {
        if laid.segments() > 1 && options.wants_sums() {
            let flags = sum_flags(options);
            let params = Params { flags, channels: self.descriptor.channels, ..laid.params(self) };
            dispatches.push(laid.finalize(self, Kernel::ShareGradients, laid.segments(), params)?);
        }
        Ok(dispatches)
    }
}

impl Laid {
    /// What becomes of dgamma and dbeta in the dispatch that finds them: those of instances replace what was there.
    fn sum_flags(&self, options: &BackwardOptions) -> u32 {
        let accumulates = Params::ACCUMULATES_GAMMA_GRADIENT | Params::ACCUMULATES_BETA_GRADIENT;
        sum_flags(options) & if self.segments() > 1 { !accumulates } else { !0 }
    }
}
