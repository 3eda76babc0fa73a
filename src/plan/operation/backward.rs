//! Both backwards.

use super::OneSample;
use super::options::{BackwardOptions, Derivative, Fixed, Fused, GradientMode, flag, parameter_flags, sum_flags};
use crate::Error;
use crate::activation::{Activation, ActivationSource};
use crate::plan::kernel::{Elementwise, Kernel, Normalizer, Operation, Reduction};
use crate::plan::{Dispatch, Geometries, Laid, Params, Plan, Work};

impl Plan {
    /// [statistics → finalize →] one dispatch, or gradient sums → merge and map, or gradient sums → finalize; with padding or
    /// renormalization prepare → gradient sums → conclude [→ map]; [→ gradients that segments share].
    pub(crate) fn backward(&self, options: BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        self.check_backward(&options)?;
        let laid = &self.batch;
        self.admit(laid.count(), OneSample::Checked)?;
        if options.valid {
            self.check_valid()?;
        }
        let valid = flag(options.valid, Params::HAS_VALID);
        let mut dispatches = Vec::new();
        if !options.saved {
            let windows = laid.windows_apart();
            let params = Params { flags: valid, ..laid.params(self) };
            let reduction = Reduction::Statistics;
            dispatches = laid.reduce_windows(self, &windows, reduction, Fixed::default(), params, [0; 2])?;
            let params = Params { flags: Params::SAVES_STATISTICS | valid, ..laid.params(self) };
            dispatches.push(laid.finalize(self, Kernel::FinalizeStatistics, laid.slots_of(&windows), params)?);
        }
        dispatches.extend(match &laid.work {
            Work::Nothing => return self.empty_gradients(&options),
            Work::Whole(geometries) if !options.valid && !options.renormalization => {
                self.gradients(Operation::Backward, laid, geometries, &options)?
            }
            Work::Whole(_) | Work::Windows(_) => self.prepared_gradients(Operation::Backward, laid, &options)?,
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
        let dispatches = match &laid.work {
            Work::Nothing => return self.empty_gradients(&options),
            _ if options.valid => {
                self.check_valid()?;
                self.prepared_gradients(Operation::FrozenBackward, laid, &options)?
            }
            Work::Whole(geometries) if options.wants_sums() => {
                self.gradients(Operation::FrozenBackward, laid, geometries, &options)?
            }
            Work::Whole(_) | Work::Windows(_) => self.frozen_gradients(laid, &options)?,
        };
        self.share_gradients(laid, &options, dispatches)
    }

    fn check_backward(&self, options: &BackwardOptions) -> Result<(), Error> {
        if !options.wants_sums() && !options.wants_map() {
            return Err(Error::NoGradientRequested);
        }
        self.check_sources(options)
    }

    /// Whether what backward is given tells the activation's derivative.
    pub(super) fn check_sources(&self, options: &BackwardOptions) -> Result<(), Error> {
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
                laid.over_tensor(self, reduce, fused.fixed, geometry, params)?,
                self.finalize_gradients(laid, geometry.slots, options)?,
            ]);
        }
        let choice = laid.choice(self, operation, fused, geometries)?;
        let flags = parameter_flags(options) | laid.sum_flags(options);
        laid.reduce_and_map(self, operation, fused, choice, Params { flags, ..laid.params(self) }, 0)
    }

    /// Through frozen statistics, the sums if they are wanted apart from the map.
    fn frozen_gradients(&self, laid: &Laid, options: &BackwardOptions) -> Result<Vec<Dispatch>, Error> {
        let fused = Fused::backward(self.descriptor.activation, options);
        let windows = laid.windows_apart();
        let mut dispatches = Vec::new();
        if options.wants_sums() {
            let reduction = Operation::FrozenBackward.reduction(fused.fusion);
            let params = Params { flags: parameter_flags(options), ..laid.params(self) };
            dispatches = laid.reduce_windows(self, &windows, reduction, fused.fixed, params, [0; 2])?;
            dispatches.push(self.finalize_gradients(laid, laid.slots_of(&windows), options)?);
        }
        if options.wants_map() {
            let source = Normalizer::of_frozen(fused.fusion);
            let params = Params { flags: parameter_flags(options), ..laid.params(self) };
            if source == Normalizer::Prepared {
                dispatches.push(laid.finalize(self, Kernel::Prepare(Normalizer::Running), 1, params)?);
            }
            let map = Elementwise::FrozenInputGradient(source, fused.fusion);
            dispatches.extend(laid.map_windows(self, &windows, map, fused.fixed, params)?);
        }
        Ok(dispatches)
    }

    /// By coefficients that are prepared first.
    fn prepared_gradients(
        &self,
        operation: Operation,
        laid: &Laid,
        options: &BackwardOptions,
    ) -> Result<Vec<Dispatch>, Error> {
        let windows = laid.windows(operation)?;
        let fused = Fused::backward(self.descriptor.activation, options);
        let frozen = operation == Operation::FrozenBackward;
        let common = flag(options.valid, Params::HAS_VALID) | flag(options.renormalization, Params::RENORMALIZES);
        let with = |flags: u32| Params { flags: flags | common, ..laid.params(self) };
        let source = if frozen { Normalizer::Running } else { Normalizer::Saved };
        let mut dispatches = vec![laid.finalize(self, Kernel::Prepare(source), 1, with(parameter_flags(options)))?];
        // The input gradient through training statistics needs the sums, whoever else does.
        if !frozen || options.wants_sums() {
            let reduction = Reduction::GradientSums(Normalizer::Prepared, fused.fusion);
            dispatches.extend(laid.reduce_windows(self, &windows, reduction, fused.fixed, with(0), [0; 2])?);
            let conclude = if frozen { Kernel::FinalizeGradients } else { Kernel::ConcludeGradients };
            let params = with(laid.sum_flags(options));
            let conclusion = laid.finalize(self, conclude, laid.slots_of(&windows), params)?;
            dispatches.push(Dispatch { per_instance: laid.segments() > 1, ..conclusion });
        }
        if options.wants_map() {
            let map = if frozen {
                Elementwise::FrozenInputGradient(Normalizer::Prepared, fused.fusion)
            } else {
                Elementwise::InputGradient(fused.fusion)
            };
            let params = with(parameter_flags(options));
            dispatches.extend(laid.map_windows(self, &windows, map, fused.fixed, params)?);
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
    pub(super) fn share_gradients(
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
    pub(super) fn sum_flags(&self, options: &BackwardOptions) -> u32 {
        let accumulates = Params::ACCUMULATES_GAMMA_GRADIENT | Params::ACCUMULATES_BETA_GRADIENT;
        sum_flags(options) & if self.segments() > 1 { !accumulates } else { !0 }
    }
}
