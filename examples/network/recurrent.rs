//! The cell of a recurrent network on sequences of unequal length, and which of them last.

use wgpu_batch_norm::{Error, SequenceAxes, Shape, ValidBuffers, ValidSource};

use super::context::{Context, Kernel, kernel};
use super::norm::Norm;
use super::tape::{Operation, Tape};
use super::tensor::{Tensor, View};

const CELL: Kernel = kernel!("recurrent_cell");
const CELL_BACKWARD: Kernel = kernel!("recurrent_cell_backward");

/// The lengths of the sequences of a batch, one `u32` each.
#[derive(Clone, Debug)]
pub struct Lengths(pub View);

impl Lengths {
    /// The `Shape` of the kernels.
    fn shape(&self, context: &Context, width: usize, step: usize) -> wgpu::Buffer {
        context.uniform("shape", &[self.0.len, width, step].map(|number| number as u32))
    }
}

impl Tape<'_> {
    /// `tanh(input + recurrent)` for sequences that last at this step, and `previous` for the others; all are
    /// (sequences, width).
    ///
    /// # Panics
    /// If they have different shapes.
    pub fn recurrent_cell(
        &mut self,
        (lengths, step): (&Lengths, usize),
        [input, recurrent, previous]: [&Tensor; 3],
    ) -> Tensor {
        let context = self.context;
        let [sequences, width] = input.shape[..] else { panic!("a step has two dimensions, not {:?}", input.shape) };
        assert!(sequences == lengths.0.len && [&recurrent.shape, &previous.shape] == [&input.shape; 2], "one shape");
        let output = self.tensor("state", &input.shape);
        let shape = lengths.shape(context, width, step);
        let slices = [
            shape.slice(..),
            lengths.0.slice(),
            input.values.slice(),
            recurrent.values.slice(),
            previous.values.slice(),
            output.values.slice(),
        ];
        self.push_dispatch(context.bind(CELL, &[], output.len(), &slices));

        let (lengths, result) = (lengths.clone(), output.clone());
        let targets = [(input, 0.0), (recurrent, 0.0), (previous, 1.0)];
        let targets = targets.map(|(tensor, carried)| (tensor.gradient.clone(), carried));
        self.push_backward(move |gradients| {
            let Some(gradient) = &output.gradient else { return Ok(Vec::new()) };
            let mut operations = Vec::new();
            for (target, carried) in &targets {
                let Some(target) = target else { continue };
                let constants = [("carried", *carried), gradients.accumulate(target)];
                let slices =
                    [shape.slice(..), lengths.0.slice(), output.values.slice(), gradient.slice(), target.slice()];
                operations.push(Operation::Dispatch(context.bind(CELL_BACKWARD, &constants, output.len(), &slices)));
            }
            Ok(operations)
        });
        result
    }

    /// What is data in batches of `shape`, (steps, sequences, channels), for batch norms with as many channels and the same
    /// segments as `norm`.
    ///
    /// # Errors
    /// As [`wgpu_batch_norm::BatchNorm::bind_valid`].
    pub fn valid_of_sequences(&mut self, norm: &Norm, shape: &Shape, lengths: &Lengths) -> Result<View, Error> {
        let axes = SequenceAxes { sequence: 1, step: 0 };
        self.valid(norm, shape, ValidSource::Lengths { lengths: lengths.0.slice(), axes })
    }

    /// The same at one step, for batches of (sequences, channels).
    ///
    /// # Errors
    /// As [`Tape::valid_of_sequences`].
    pub fn valid_at_step(
        &mut self,
        norm: &Norm,
        channels: usize,
        (lengths, step): (&Lengths, usize),
    ) -> Result<View, Error> {
        let axes = SequenceAxes { sequence: 1, step: 0 };
        let source = ValidSource::LengthsFrom { lengths: lengths.0.slice(), axes, first_step: step as u32 };
        // One step of all sequences has the same elements in the same order.
        self.valid(norm, &Shape::new(&[1, lengths.0.len, channels])?, source)
    }

    fn valid(&mut self, norm: &Norm, shape: &Shape, source: ValidSource<'_>) -> Result<View, Error> {
        let layer = &norm.layer;
        let plan = layer.batch_norm().plan(shape)?;
        let valid = self.context.zeros("valid", plan.valid_size() as usize / 4);
        let step = layer.batch_norm().bind_valid(&plan, &ValidBuffers { source, valid: valid.slice() })?;
        self.push(Operation::Step(step));
        Ok(valid)
    }
}
