//! Optimisers: SGD with momentum, and Adam.

use super::context::{Context, Dispatch, Kernel, kernel};
use super::tensor::{Parameter, View};

const SGD_UPDATE: Kernel = kernel!("sgd_update");
const ADAM_UPDATE: Kernel = kernel!("adam_update");
const ADAM_COUNT: Kernel = kernel!("adam_count");

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Stochastic gradient descent, plain with a momentum of 0.
    Sgd { momentum: f32 },
    /// With β₁ = 0.9, β₂ = 0.999 and ε = 1e-8.
    Adam,
}

/// Updates parameters on the device, a dispatch each.
#[derive(Debug)]
pub struct Optimizer {
    settings: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
    /// Velocities or moments of each parameter.
    state: Vec<View>,
    /// Of Adam.
    powers: Option<View>,
}

impl Optimizer {
    pub fn new(
        context: &Context,
        method: Method,
        learning_rate: f32,
        parameters: impl IntoIterator<Item = Parameter>,
    ) -> Self {
        let (settings, powers) = match method {
            Method::Sgd { momentum } => (vec![learning_rate, momentum], None),
            Method::Adam => {
                (vec![learning_rate, 0.9, 0.999, 1e-8], Some(context.upload("powers of Adam", &[1.0_f32; 2])))
            }
        };
        let settings = context.uniform("settings of the optimiser", &settings);
        let (mut dispatches, mut state) = (Vec::new(), Vec::new());
        if let Some(powers) = &powers {
            dispatches.push(context.bind_workgroups(ADAM_COUNT, &[], 1, &[settings.slice(..), powers.slice()]));
        }
        for Parameter { values, gradient } in parameters {
            let history = context.zeros("state of the optimiser", values.len * if powers.is_some() { 2 } else { 1 });
            let mut slices = vec![settings.slice(..), gradient.slice(), values.slice(), history.slice()];
            let kernel = match &powers {
                Some(powers) => {
                    slices.push(powers.slice());
                    ADAM_UPDATE
                }
                None => SGD_UPDATE,
            };
            dispatches.push(context.bind(kernel, &[], values.len, &slices));
            state.push(history);
        }
        Self { settings, dispatches, state, powers }
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatches.iter().for_each(|dispatch| dispatch.record(pass));
    }

    /// For whatever is submitted next.
    pub fn set_learning_rate(&self, context: &Context, learning_rate: f32) {
        context.gpu.queue.write_buffer(&self.settings, 0, bytemuck::bytes_of(&learning_rate));
    }

    /// Forgets all steps so far.
    pub fn reset(&self, context: &Context) {
        for view in &self.state {
            context.write(view, &vec![0.0_f32; view.len]);
        }
        if let Some(powers) = &self.powers {
            context.write(powers, &[1.0_f32; 2]);
        }
    }
}
