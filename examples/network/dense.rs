//! The fully connected layer.

use super::context::{Context, Kernel, kernel};
use super::tape::{Operation, Tape};
use super::tensor::{Parameter, Tensor};

const FORWARD: Kernel = kernel!("linear_forward");
const BACKWARD_INPUT: Kernel = kernel!("linear_backward_input");
const BACKWARD_WEIGHT: Kernel = kernel!("linear_backward_weight");
const BACKWARD_BIAS: Kernel = kernel!("linear_backward_bias");

/// `output = input · weightᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Dense {
    pub inputs: usize,
    pub outputs: usize,
    /// `outputs × inputs`, row-major.
    pub weight: Parameter,
    /// Left out before a batch norm: subtracting the mean would cancel it, and beta does its work.
    pub bias: Option<Parameter>,
}

impl Dense {
    /// All parameters 0.
    ///
    /// # Panics
    /// If `inputs` is no multiple of 4, which the kernels ask for.
    pub fn new(context: &Context, inputs: usize, outputs: usize, bias: bool) -> Self {
        assert!(inputs.is_multiple_of(4), "{inputs} inputs are no multiple of 4");
        Self {
            inputs,
            outputs,
            weight: Parameter::new(context, "weight", inputs * outputs),
            bias: bias.then(|| Parameter::new(context, "bias", outputs)),
        }
    }

    pub fn parameters(&self) -> impl Iterator<Item = Parameter> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().cloned()
    }
}

impl Tape<'_> {
    /// Applies the layer to the last dimension.
    ///
    /// # Panics
    /// If that is not as long as the layer's input.
    pub fn dense(&mut self, layer: &Dense, input: &Tensor) -> Tensor {
        let (Some((&last, others)), context) = (input.shape.split_last(), self.context) else {
            panic!("a dense layer takes a tensor with dimensions");
        };
        assert_eq!(last, layer.inputs, "inputs of a dense layer");
        let rows: usize = others.iter().product();
        let output = self.tensor("dense output", &[others, &[layer.outputs]].concat());
        let shape = context.uniform("shape", &[rows as u32, layer.inputs as u32, layer.outputs as u32]);
        let zeros;
        let bias = match &layer.bias {
            Some(bias) => &bias.values,
            None => {
                zeros = context.zeros("no bias", layer.outputs);
                &zeros
            }
        };
        let blocks = rows.div_ceil(4) * layer.outputs.div_ceil(4);
        let slices =
            [shape.slice(..), input.values.slice(), layer.weight.values.slice(), bias.slice(), output.values.slice()];
        self.push_dispatch(context.bind(FORWARD, &[], blocks, &slices));

        let (layer, input, result) = (layer.clone(), input.clone(), output.clone());
        self.push_backward(move |gradients| {
            let Some(gradient) = &output.gradient else { return Ok(Vec::new()) };
            let mut operations = Vec::new();
            let weight = &layer.weight;
            let slices = [shape.slice(..), gradient.slice(), input.values.slice(), weight.gradient.slice()];
            let blocks = layer.outputs.div_ceil(4) * layer.inputs / 4;
            let accumulate = gradients.accumulate(&weight.gradient);
            operations.push(context.bind(BACKWARD_WEIGHT, &[accumulate], blocks, &slices));
            if let Some(bias) = &layer.bias {
                let slices = [shape.slice(..), gradient.slice(), bias.gradient.slice()];
                let accumulate = gradients.accumulate(&bias.gradient);
                operations.push(context.bind(BACKWARD_BIAS, &[accumulate], layer.outputs, &slices));
            }
            if let Some(input_gradient) = &input.gradient {
                let slices = [shape.slice(..), gradient.slice(), weight.values.slice(), input_gradient.slice()];
                let blocks = rows.div_ceil(4) * layer.inputs / 4;
                let accumulate = gradients.accumulate(input_gradient);
                operations.push(context.bind(BACKWARD_INPUT, &[accumulate], blocks, &slices));
            }
            Ok(operations.into_iter().map(Operation::Dispatch).collect())
        });
        result
    }
}
