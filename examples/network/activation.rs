//! Activations that the crate does not fuse, and those of networks without batch norm.

use super::context::{Context, Dispatch, Kernel, kernel};
use super::tape::{Gradients, Operation, Tape};
use super::tensor::Tensor;

const FORWARD: Kernel = kernel!("activation_forward");
const BACKWARD: Kernel = kernel!("activation_backward");

/// `kind` of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Sigmoid = 0,
    Tanh = 1,
    Relu = 2,
}

impl Activation {
    fn constant(self) -> (&'static str, f64) {
        ("kind", f64::from(self as u32))
    }
}

impl Tape<'_> {
    pub fn activation(&mut self, kind: Activation, input: &Tensor) -> Tensor {
        let context = self.context;
        let output = self.tensor("activation", &input.shape);
        let slices = [input.values.slice(), output.values.slice()];
        self.push_dispatch(context.bind(FORWARD, &[kind.constant()], input.len(), &slices));

        let (input, result) = (input.clone(), output.clone());
        self.push_backward(move |gradients| {
            Ok(backward(context, kind, &input, &output, gradients).map(Operation::Dispatch).into_iter().collect())
        });
        result
    }
}

/// From the gradient of `f(… + input + …)` to that of `input`; `None` where one of them has none.
pub(super) fn backward(
    context: &Context,
    kind: Activation,
    input: &Tensor,
    output: &Tensor,
    gradients: &mut Gradients,
) -> Option<Dispatch> {
    let (gradient, target) = (output.gradient.as_ref()?, input.gradient.as_ref()?);
    let slices = [output.values.slice(), gradient.slice(), target.slice()];
    let constants = [kind.constant(), gradients.accumulate(target)];
    Some(context.bind(BACKWARD, &constants, input.len(), &slices))
}
