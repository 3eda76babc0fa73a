//! Pooling, and the sum at the end of a residual block.

use wgpu_batch_norm::Layout;

use super::activation::{self, Activation};
use super::context::{Kernel, kernel};
use super::convolution::Images;
use super::tape::{Operation, Tape};
use super::tensor::Tensor;

const MAX_POOL: Kernel = kernel!("max_pool");
const MAX_POOL_BACKWARD: Kernel = kernel!("max_pool_backward");
const MEAN_POOL: Kernel = kernel!("mean_pool");
const MEAN_POOL_BACKWARD: Kernel = kernel!("mean_pool_backward");
const ADD_RELU: Kernel = kernel!("add_relu");

impl Tape<'_> {
    /// The largest of each 2 × 2 pixels.
    ///
    /// # Panics
    /// If height or width is odd.
    pub fn max_pool(&mut self, layout: Layout, input: &Tensor) -> Tensor {
        let context = self.context;
        let images = Images::of(input, layout);
        assert!(images.height.is_multiple_of(2) && images.width.is_multiple_of(2), "pixels come in twos");
        let pooled = Images { height: images.height / 2, width: images.width / 2, ..images };
        let output = self.tensor("max pool", &pooled.shape());
        let numbers = [images.count, images.channels, pooled.height, pooled.width].map(|number| number as u32);
        let [count, channels, height, width] = numbers;
        let shape = context.uniform("shape", &[count, channels, height, width, images.channels_last()]);
        let slices = [shape.slice(..), input.values.slice(), output.values.slice()];
        self.push_dispatch(context.bind(MAX_POOL, &[], output.len(), &slices));

        let (input, result) = (input.clone(), output.clone());
        self.push_backward(move |gradients| {
            let (Some(gradient), Some(target)) = (&output.gradient, &input.gradient) else { return Ok(Vec::new()) };
            let slices = [shape.slice(..), input.values.slice(), gradient.slice(), target.slice()];
            let accumulate = gradients.accumulate(target);
            let dispatch = context.bind(MAX_POOL_BACKWARD, &[accumulate], output.len(), &slices);
            Ok(vec![Operation::Dispatch(dispatch)])
        });
        result
    }

    /// The mean of all pixels of a channel, (images, channels) in either layout.
    ///
    /// # Panics
    /// If the input does not have four dimensions.
    pub fn mean_pool(&mut self, layout: Layout, input: &Tensor) -> Tensor {
        let context = self.context;
        let images = Images::of(input, layout);
        let output = self.tensor("mean pool", &[images.count, images.channels]);
        let [count, channels, pixels] = [images.count, images.channels, images.pixels()].map(|number| number as u32);
        let shape = context.uniform("shape", &[count, channels, pixels, images.channels_last()]);
        let slices = [shape.slice(..), input.values.slice(), output.values.slice()];
        self.push_dispatch(context.bind(MEAN_POOL, &[], output.len(), &slices));

        let (input, result) = (input.clone(), output.clone());
        self.push_backward(move |gradients| {
            let (Some(gradient), Some(target)) = (&output.gradient, &input.gradient) else { return Ok(Vec::new()) };
            let slices = [shape.slice(..), gradient.slice(), target.slice()];
            let accumulate = gradients.accumulate(target);
            let dispatch = context.bind(MEAN_POOL_BACKWARD, &[accumulate], input.len(), &slices);
            Ok(vec![Operation::Dispatch(dispatch)])
        });
        result
    }

    /// `max(a + b, 0)`: the end of a residual block where no batch norm does it.
    ///
    /// # Panics
    /// If they have different shapes.
    pub fn add_relu(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        let context = self.context;
        assert_eq!(a.shape, b.shape, "summands have one shape");
        let output = self.tensor("sum", &a.shape);
        let slices = [a.values.slice(), b.values.slice(), output.values.slice()];
        self.push_dispatch(context.bind(ADD_RELU, &[], output.len(), &slices));

        let (a, b, result) = (a.clone(), b.clone(), output.clone());
        self.push_backward(move |gradients| {
            let backward =
                |summand: &Tensor| activation::backward(context, Activation::Relu, summand, &output, gradients);
            Ok([&a, &b].into_iter().filter_map(backward).map(Operation::Dispatch).collect())
        });
        result
    }
}
