//! From calls of layers to a list of dispatches, forward and backward.

use std::collections::HashSet;

use wgpu_batch_norm::{Error, Gradient, LayerBackward, LayerForward, Step, TrainingStep};

use super::context::{Context, Dispatch};
use super::tensor::{Tensor, View};

/// A part of a step: a kernel of this library, or an operation of the crate.
#[derive(Clone, Debug)]
pub enum Operation {
    Dispatch(Dispatch),
    Step(Step),
    Training(TrainingStep),
    /// Recorded in the mode of its layer.
    Forward(Box<LayerForward>),
    /// Recorded in the mode that its forward was recorded in last.
    Backward(Box<LayerBackward>),
}

impl Operation {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Dispatch(dispatch) => dispatch.record(pass),
            Self::Step(step) => step.record(pass),
            Self::Training(step) => step.record(pass),
            Self::Forward(forward) => forward.record(pass),
            Self::Backward(backward) => backward.record(pass),
        }
    }
}

/// Which gradients have been written so far on the way backward.
///
/// What is used several times gets several gradients, which add up: the first one overwrites, the others accumulate.
#[derive(Debug, Default)]
pub struct Gradients {
    written: HashSet<View>,
}

impl Gradients {
    /// How the next gradient goes to `view`, for the crate's operations.
    pub fn target<'v>(&mut self, view: &'v View) -> Gradient<'v> {
        if self.written.insert(view.clone()) {
            Gradient::Overwrite(view.slice())
        } else {
            Gradient::Accumulate(view.slice())
        }
    }

    /// The same for the library's kernels: the constant that says whether they accumulate.
    pub fn accumulate(&mut self, view: &View) -> (&'static str, f64) {
        ("accumulate", f64::from(u8::from(!self.written.insert(view.clone()))))
    }
}

type Backward<'c> = Box<dyn FnOnce(&mut Gradients) -> Result<Vec<Operation>, Error> + 'c>;

/// Binds a network as its layers are called, in the order of the forward; modules of layers add methods of their own.
pub struct Tape<'c> {
    pub context: &'c Context,
    gradients: bool,
    forward: Vec<Operation>,
    backward: Vec<Backward<'c>>,
}

impl<'c> Tape<'c> {
    /// For training: with a backward.
    pub fn new(context: &'c Context) -> Self {
        Self { context, gradients: true, forward: Vec::new(), backward: Vec::new() }
    }

    /// For evaluation: tensors have no gradients.
    pub fn forward_only(context: &'c Context) -> Self {
        Self { gradients: false, ..Self::new(context) }
    }

    /// A tensor for a layer to write to.
    pub fn tensor(&self, label: &str, shape: &[usize]) -> Tensor {
        let values = self.context.zeros(label, shape.iter().product());
        let gradient = self.gradients.then(|| self.context.zeros(&format!("gradient of {label}"), values.len));
        Tensor { shape: shape.to_vec(), values, gradient }
    }

    /// Adds an operation to the forward.
    pub fn push(&mut self, operation: Operation) {
        self.forward.push(operation);
    }

    /// Adds a dispatch to the forward.
    pub fn push_dispatch(&mut self, dispatch: Dispatch) {
        self.push(Operation::Dispatch(dispatch));
    }

    /// Adds what backward does in return; called from the last to the first, so that what is used later is known.
    pub fn push_backward(&mut self, backward: impl FnOnce(&mut Gradients) -> Result<Vec<Operation>, Error> + 'c) {
        if self.gradients {
            self.backward.push(Box::new(backward));
        }
    }

    /// # Errors
    /// What binding the crate's backward is refused for.
    pub fn finish(self) -> Result<Program, Error> {
        let mut gradients = Gradients::default();
        let mut backward = Vec::new();
        for layer in self.backward.into_iter().rev() {
            backward.extend(layer(&mut gradients)?);
        }
        Ok(Program { forward: self.forward, backward })
    }
}

/// A network bound to buffers.
#[derive(Clone, Debug)]
pub struct Program {
    pub forward: Vec<Operation>,
    pub backward: Vec<Operation>,
}

impl Program {
    /// Records forward and, if it was bound, backward.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_forward(pass);
        self.backward.iter().for_each(|operation| operation.record(pass));
    }

    pub fn record_forward(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.forward.iter().for_each(|operation| operation.record(pass));
    }
}
