//! The convolution, for images in either layout of the crate.

use wgpu_batch_norm::Layout;

use super::context::{Context, Dispatch, Kernel, kernel};
use super::tape::{Operation, Tape};
use super::tensor::{Parameter, Tensor, View};

const CONVOLUTION: Kernel = kernel!("convolution");
const BACKWARD_WEIGHT: Kernel = kernel!("convolution_backward_weight");
const CHANNEL_SUMS: Kernel = kernel!("channel_sums");

/// A convolution of odd size and stride 1, with zeros around the image so that it keeps its size.
#[derive(Clone, Debug)]
pub struct Convolution {
    pub layout: Layout,
    pub inputs: usize,
    pub outputs: usize,
    /// Taps along a side.
    pub size: usize,
    /// (outputs, inputs, size, size) in both layouts, so that a seed gives the same network.
    pub weight: Parameter,
    /// Left out before a batch norm.
    pub bias: Option<Parameter>,
}

/// Images in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    pub count: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub layout: Layout,
}

impl Images {
    /// # Panics
    /// If the tensor does not have four dimensions.
    pub fn of(tensor: &Tensor, layout: Layout) -> Self {
        let [count, second, third, fourth] = tensor.shape[..] else {
            panic!("images have four dimensions, not {:?}", tensor.shape);
        };
        match layout {
            Layout::ChannelsFirst => Self { count, channels: second, height: third, width: fourth, layout },
            Layout::ChannelsLast => Self { count, channels: fourth, height: second, width: third, layout },
        }
    }

    pub const fn shape(&self) -> [usize; 4] {
        let Self { count, channels, height, width, layout } = *self;
        match layout {
            Layout::ChannelsFirst => [count, channels, height, width],
            Layout::ChannelsLast => [count, height, width, channels],
        }
    }

    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    pub fn channels_last(&self) -> u32 {
        u32::from(self.layout == Layout::ChannelsLast)
    }
}

impl Convolution {
    /// All parameters 0.
    ///
    /// # Panics
    /// If the size is even.
    pub fn new(context: &Context, layout: Layout, inputs: usize, outputs: usize, size: usize, bias: bool) -> Self {
        assert!(size % 2 == 1, "an even convolution has no centre");
        Self {
            layout,
            inputs,
            outputs,
            size,
            weight: Parameter::new(context, "weight", outputs * inputs * size * size),
            bias: bias.then(|| Parameter::new(context, "bias", outputs)),
        }
    }

    pub fn parameters(&self) -> impl Iterator<Item = Parameter> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().cloned()
    }

    fn bind_forward(
        &self,
        context: &Context,
        input: &Tensor,
        weight: &View,
        bias: Option<&View>,
        relu: bool,
        output: &Tensor,
    ) -> Dispatch {
        let images = Images::of(input, self.layout);
        assert_eq!(images.channels, self.inputs, "channels of a convolution");
        let shape = context.uniform("shape", &self.shape(&images, false));
        let zeros = context.zeros("no bias", self.outputs);
        let slices = [
            shape.slice(..),
            input.values.slice(),
            weight.slice(),
            bias.unwrap_or(&zeros).slice(),
            output.values.slice(),
        ];
        let constants = [("biased", f64::from(u8::from(bias.is_some()))), ("relu", f64::from(u8::from(relu)))];
        context.bind(CONVOLUTION, &constants, blocks(&images, self.outputs), &slices)
    }

    /// The `Shape` of the kernels, for forward or for the gradient of the input.
    fn shape(&self, images: &Images, reversed: bool) -> [u32; 10] {
        let taps = self.size * self.size;
        let (from_input, from_output) = (taps, self.inputs * taps);
        let [inputs, outputs, weight_output, weight_input] = if reversed {
            [self.outputs, self.inputs, from_input, from_output]
        } else {
            [self.inputs, self.outputs, from_output, from_input]
        };
        let numbers = [
            images.count,
            inputs,
            outputs,
            images.height,
            images.width,
            self.size,
            usize::from(reversed),
            images.channels_last() as usize,
            weight_output,
            weight_input,
        ];
        numbers.map(|number| number as u32)
    }
}

/// Blocks of four positions and four channels.
const fn blocks(images: &Images, channels: usize) -> usize {
    (images.count * images.pixels()).div_ceil(4) * channels.div_ceil(4)
}

impl Tape<'_> {
    /// # Panics
    /// If the input does not have the layer's channels.
    pub fn convolution(&mut self, layer: &Convolution, input: &Tensor) -> Tensor {
        let context = self.context;
        let images = Images::of(input, layer.layout);
        let output = self.tensor("convolution", &Images { channels: layer.outputs, ..images }.shape());
        let bias = layer.bias.as_ref().map(|bias| &bias.values);
        let forward = layer.bind_forward(context, input, &layer.weight.values, bias, false, &output);
        self.push_dispatch(forward);

        let (layer, input, result) = (layer.clone(), input.clone(), output.clone());
        self.push_backward(move |gradients| {
            let Some(gradient) = &output.gradient else { return Ok(Vec::new()) };
            let mut operations = Vec::new();
            let target = &layer.weight.gradient;
            let shape = context.uniform("shape", &layer.shape(&images, false));
            let slices = [shape.slice(..), gradient.slice(), input.values.slice(), target.slice()];
            let workgroups = layer.size * layer.size * layer.outputs.div_ceil(4) * layer.inputs.div_ceil(4);
            let accumulate = gradients.accumulate(target);
            operations.push(context.bind_workgroups(BACKWARD_WEIGHT, &[accumulate], workgroups, &slices));
            if let Some(bias) = &layer.bias {
                let numbers = [images.count, layer.outputs, images.pixels(), images.channels_last() as usize];
                let shape = context.uniform("shape", &numbers.map(|number| number as u32));
                let slices = [shape.slice(..), gradient.slice(), bias.gradient.slice()];
                let accumulate = gradients.accumulate(&bias.gradient);
                operations.push(context.bind_workgroups(CHANNEL_SUMS, &[accumulate], layer.outputs, &slices));
            }
            if let Some(target) = &input.gradient {
                let shape = context.uniform("shape", &layer.shape(&images, true));
                let zeros = context.zeros("no bias", layer.inputs);
                let slices =
                    [shape.slice(..), gradient.slice(), layer.weight.values.slice(), zeros.slice(), target.slice()];
                let accumulate = gradients.accumulate(target);
                let invocations = blocks(&images, layer.inputs);
                let constants = [("biased", 0.0), accumulate];
                operations.push(context.bind(CONVOLUTION, &constants, invocations, &slices));
            }
            Ok(operations.into_iter().map(Operation::Dispatch).collect())
        });
        result
    }

    /// The convolution with other weights and biases than the layer's, such as folded ones, and with ReLU if wanted; for networks
    /// that are only evaluated.
    ///
    /// # Panics
    /// As [`Tape::convolution`].
    pub fn evaluated_convolution(
        &mut self,
        layer: &Convolution,
        input: &Tensor,
        [weight, bias]: [&View; 2],
        relu: bool,
    ) -> Tensor {
        let images = Images { channels: layer.outputs, ..Images::of(input, layer.layout) };
        let values = self.context.zeros("convolution", images.count * images.channels * images.pixels());
        let output = Tensor::data(values, &images.shape());
        let forward = layer.bind_forward(self.context, input, weight, Some(bias), relu, &output);
        self.push_dispatch(forward);
        output
    }
}
