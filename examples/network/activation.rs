//! Activations that the crate does not fuse, and those of networks without batch norm.

use super::context::{Kernel, kernel};
use super::tape::{Operation, Tape};
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

impl Tape<'_> {
    pub fn activation(&mut self, kind: Activation, input: &Tensor) -> Tensor {
        let context = self.context;
        let output = self.tensor("activation", &input.shape);
        let kind = ("kind", f64::from(kind as u32));
        let slices = [input.values.slice(), output.values.slice()];
        self.push_dispatch(context.bind(FORWARD, &[kind], input.len(), &slices));

        let (input, result) = (input.clone(), output.clone());
        self.push_backward(move |gradients| {
            let (Some(gradient), Some(input_gradient)) = (&output.gradient, &input.gradient) else {
                return Ok(Vec::new());
            };
            let slices = [output.values.slice(), gradient.slice(), input_gradient.slice()];
            let constants = [kind, gradients.accumulate(input_gradient)];
            Ok(vec![Operation::Dispatch(context.bind(BACKWARD, &constants, input.len(), &slices))])
        });
        result
    }
}
