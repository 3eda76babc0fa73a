//! The crate's batch norm, as a layer of this library.

use std::rc::Rc;

use wgpu_batch_norm::{
    Activation, ActivationState, BackwardBuffers, BatchNorm, BatchNormLayer, BatchNormLayerDescriptor, Error,
    LayerState, Momentum, Shape, TrainingBuffers,
};

use super::context::Context;
use super::tape::{Operation, Tape};
use super::tensor::{Parameter, Tensor, View};

/// A batch norm; clones are the same layer.
#[derive(Clone, Debug)]
pub struct Norm {
    pub layer: Rc<BatchNormLayer>,
}

/// What may be different from one use of a batch norm to another.
#[derive(Clone, Debug, Default)]
pub struct NormOptions<'a> {
    /// The shape that the crate is given, for segments; absent: that of the tensor.
    pub shape: Option<Shape>,
    /// Added before the descriptor's activation.
    pub residual: Option<&'a Tensor>,
    /// What is data and what padding, as the crate's `bind_valid` wrote it.
    pub valid: Option<&'a View>,
    /// The limits of batch renormalization, two values on the device.
    pub renormalization: Option<&'a View>,
    /// Which of the layer's sets of running statistics.
    pub running_set: u32,
}

impl Norm {
    /// # Errors
    /// As [`BatchNormLayer::with_kernels`].
    pub fn new(context: &Context, descriptor: &BatchNormLayerDescriptor) -> Result<Self, Error> {
        let layer = BatchNormLayer::with_kernels(&context.kernels, descriptor)?;
        Ok(Self { layer: Rc::new(layer) })
    }

    /// From now on with the statistics of the batch.
    pub fn train(&self) {
        self.layer.train();
    }

    /// From now on with the running statistics, backward too.
    pub fn eval(&self) {
        self.layer.eval();
    }

    /// All that it has learned, on the host.
    ///
    /// # Errors
    /// As [`BatchNormLayer::record_state_copy`].
    pub fn state(&self, context: &Context) -> Result<LayerState, Error> {
        let layer = &self.layer;
        // The layer's own way there maps a buffer of the caller's; here a buffer is read by the means of the examples.
        let copy = context.gpu.zeroed("state", layer.state_size());
        let mut encoder = context.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        layer.record_state_copy(&mut encoder, copy.slice(..layer.state_size()))?;
        context.gpu.queue.submit([encoder.finish()]);
        layer.state_from_bytes(&context.gpu.read(&copy, layer.state_size() as usize))
    }

    /// The opposite of [`Norm::state`].
    ///
    /// # Errors
    /// As [`BatchNormLayer::load_state`].
    pub fn load(&self, context: &Context, state: &LayerState) -> Result<(), Error> {
        self.layer.load_state(&context.gpu.queue, state)
    }

    /// Back to what it was at first, running statistics included.
    ///
    /// # Errors
    /// As [`BatchNormLayer::reset_parameters`].
    pub fn reset(&self, context: &Context) -> Result<(), Error> {
        self.layer.reset_parameters(&context.gpu.queue)?;
        self.layer.reset_running_statistics(&context.gpu.queue)
    }

    /// Gamma and beta, as far as it has them.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.layer.parameters().map(Parameter::from).collect()
    }
}

impl Tape<'_> {
    /// The batch norm with the activation of its descriptor.
    ///
    /// # Errors
    /// What the crate refuses, such as a shape with another number of channels.
    pub fn batch_norm(&mut self, norm: &Norm, input: &Tensor) -> Result<Tensor, Error> {
        self.batch_norm_with(norm, input, &NormOptions::default())
    }

    /// # Errors
    /// As [`Tape::batch_norm`].
    pub fn batch_norm_with(&mut self, norm: &Norm, input: &Tensor, options: &NormOptions<'_>) -> Result<Tensor, Error> {
        let shape = match &options.shape {
            Some(shape) => shape.clone(),
            None => Shape::new(&input.shape)?,
        };
        let plan = norm.layer.plan(&shape)?;
        let output = self.tensor("normalised", &input.shape);
        let layer = &norm.layer;
        let own = layer.training_buffers(input.values.slice(), output.values.slice());
        let buffers = TrainingBuffers {
            residual: options.residual.map(|residual| residual.values.slice()),
            valid: options.valid.map(View::slice),
            running: if options.running_set == 0 { own.running } else { layer.running_set(options.running_set) },
            ..own
        };
        let forward = match options.renormalization {
            Some(limits) => layer.bind_renormalized_forward(&plan, &buffers, limits.slice())?,
            None => layer.bind_forward(&plan, &buffers)?,
        };
        self.push(Operation::Forward(Box::new(forward.clone())));

        let (norm, input, result) = (norm.clone(), input.clone(), output.clone());
        let residual = options.residual.cloned();
        self.push_backward(move |gradients| {
            let Some(gradient) = &output.gradient else { return Ok(Vec::new()) };
            let layer = &norm.layer;
            let parameters = norm.parameters();
            let [gamma, beta] = [layer.gamma_gradient(), layer.beta_gradient()]
                .map(|own| own.and_then(|own| parameters.iter().find(|parameter| parameter.gradient.buffer == *own)));
            let own = layer.backward_buffers(&forward, input.values.slice(), gradient.slice());
            let residual = residual.as_ref().and_then(|residual| residual.gradient.as_ref());
            // y is kept anyway, as the input of the next layer; its sign tells the derivative of ReLU.
            let activation = match layer.batch_norm().descriptor().activation {
                Activation::Relu | Activation::LeakyRelu { .. } => ActivationState::Output(output.values.slice()),
                _ => own.activation,
            };
            let backward = layer.bind_backward(
                &forward,
                &BackwardBuffers {
                    activation,
                    input_gradient: input.gradient.as_ref().map(|view| gradients.target(view)),
                    residual_gradient: residual.map(|view| gradients.target(view)),
                    gamma_gradient: gamma.map(|parameter| gradients.target(&parameter.gradient)),
                    beta_gradient: beta.map(|parameter| gradients.target(&parameter.gradient)),
                    ..own
                },
            )?;
            Ok(vec![Operation::Backward(Box::new(backward))])
        });
        Ok(result)
    }

    /// The batch norm with statistics of the batch, which then stand in the place of the running ones. With all data as the batch,
    /// inference gets exact statistics (Wu and Johnson, arXiv 2105.07576, section 3). Has no backward.
    ///
    /// # Errors
    /// As [`Tape::batch_norm`].
    pub fn batch_norm_recorded_anew(&mut self, norm: &Norm, input: &Tensor) -> Result<Tensor, Error> {
        let layer = &norm.layer;
        let mut descriptor = layer.batch_norm().descriptor().clone();
        descriptor.convention.momentum = Momentum::WeightOfNew(1.0);
        let batch_norm = BatchNorm::with_kernels(&self.context.kernels, &descriptor)?;
        let plan = batch_norm.plan(&Shape::new(&input.shape)?)?;
        layer.reserve(&plan)?;
        let output = self.tensor("normalised", &input.shape);
        let step =
            batch_norm.bind_training(&plan, &layer.training_buffers(input.values.slice(), output.values.slice()))?;
        self.push(Operation::Training(step));
        Ok(output)
    }
}
