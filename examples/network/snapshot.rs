//! What a network has learned, on the host.

use wgpu_batch_norm::{Error, LayerState, RunningState};

use super::context::Context;
use super::norm::Norm;
use super::tensor::Parameter;

/// Values of all parameters, and the running statistics of the batch norms.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub parameters: Vec<Vec<f32>>,
    pub running: Vec<Option<RunningState>>,
}

impl Snapshot {
    /// # Errors
    /// As [`Norm::state`].
    pub fn take(context: &Context, parameters: &[Parameter], norms: &[Norm]) -> Result<Self, Error> {
        let states = norms.iter().map(|norm| norm.state(context)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            parameters: parameters.iter().map(|parameter| context.read(&parameter.values)).collect(),
            running: states.into_iter().map(|state| state.running).collect(),
        })
    }

    /// Brings it back to the same network, or to one like it.
    ///
    /// # Errors
    /// As [`Norm::load`].
    pub fn restore(&self, context: &Context, parameters: &[Parameter], norms: &[Norm]) -> Result<(), Error> {
        for (parameter, values) in parameters.iter().zip(&self.parameters) {
            context.write(&parameter.values, values);
        }
        for (norm, running) in norms.iter().zip(&self.running) {
            let state = norm.state(context)?;
            norm.load(context, &LayerState { running: running.clone(), ..state })?;
        }
        Ok(())
    }
}
