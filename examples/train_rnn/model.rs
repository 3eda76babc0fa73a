//! The recurrent network, with batch norm where a variant has it.
//!
//! ```text
//! hₜ = tanh( BN(Wₓ·xₜ) + BN(Wₕ·hₜ₋₁) )        logits = W·h at the end of each sequence + b
//! ```

use wgpu_batch_norm::{
    BatchNormDescriptor, BatchNormLayerDescriptor, Convention, Error, Layout, SegmentRunning, Shape,
};

use crate::network::context::Context;
use crate::network::dense::Dense;
use crate::network::digits::CLASSES;
use crate::network::initial::Initial;
use crate::network::norm::{Norm, NormOptions};
use crate::network::recurrent::Lengths;
use crate::network::tape::Tape;
use crate::network::tensor::{Parameter, Tensor};
use crate::sequences::{STEPS, WIDTH};

/// Units of the state.
const HIDDEN: usize = 64;

/// Where batch norm stands, and over what its statistics are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Without,
    /// On the input, over all steps of all sequences (Laurent et al., arXiv 1510.01378).
    InputSequences,
    /// The same, with padding counted as if it were data.
    InputPadded,
    /// On the input, over the sequences at each step.
    InputSteps,
    /// On input and state, over the sequences at each step, gamma 0.1 at first (Cooijmans et al., arXiv 1603.09025).
    InputAndState,
    /// The same with gamma 1 at first.
    InputAndStateFromOne,
}

impl Variant {
    pub const ALL: [Self; 6] = [
        Self::Without,
        Self::InputSequences,
        Self::InputPadded,
        Self::InputSteps,
        Self::InputAndState,
        Self::InputAndStateFromOne,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Without => "without batch norm",
            Self::InputSequences => "input, all steps",
            Self::InputPadded => "input, all steps, padding counted",
            Self::InputSteps => "input, each step",
            Self::InputAndState => "input and state, each step",
            Self::InputAndStateFromOne => "the same, gamma from 1",
        }
    }

    const fn by_step(self) -> bool {
        matches!(self, Self::InputSteps | Self::InputAndState | Self::InputAndStateFromOne)
    }

    const fn on_state(self) -> bool {
        matches!(self, Self::InputAndState | Self::InputAndStateFromOne)
    }

    const fn gamma(self) -> f32 {
        if matches!(self, Self::InputAndState) { 0.1 } else { 1.0 }
    }
}

pub struct Rnn {
    variant: Variant,
    input: Dense,
    recurrent: Dense,
    head: Dense,
    input_norm: Option<Norm>,
    state_norm: Option<Norm>,
}

impl Rnn {
    /// A seed gives the same weights in every variant.
    pub fn new(context: &Context, variant: Variant, seed: u64) -> Result<Self, Error> {
        let with_norm = variant != Variant::Without;
        // Beta of the batch norm on the input does the work of a bias.
        let input = Dense::new(context, WIDTH, HIDDEN, !with_norm);
        let recurrent = Dense::new(context, HIDDEN, HIDDEN, false);
        let head = Dense::new(context, HIDDEN, CLASSES, true);
        let mut initial = Initial::new(seed);
        for layer in [&input, &recurrent, &head] {
            initial.normal(context, &layer.weight, (1.0 / layer.inputs as f32).sqrt());
        }
        let norm = |beta: Option<f32>, sets: usize, segment_running: SegmentRunning| {
            let descriptor = BatchNormLayerDescriptor {
                batch_norm: BatchNormDescriptor {
                    channels: HIDDEN as u32,
                    layout: Layout::ChannelsLast,
                    convention: Convention { segment_running, ..Convention::pytorch() },
                    ..Default::default()
                },
                gamma: Some(variant.gamma()),
                beta,
                running_sets: sets as u32,
                ..Default::default()
            };
            Norm::new(context, &descriptor)
        };
        let (input_sets, separate) =
            if variant.by_step() { (STEPS, SegmentRunning::Separate) } else { (1, SegmentRunning::InTurn) };
        Ok(Self {
            variant,
            input,
            recurrent,
            head,
            input_norm: with_norm.then(|| norm(Some(0.0), input_sets, separate)).transpose()?,
            // One beta is enough for a sum of two. Each step is a use of its own, no segment.
            state_norm: variant.on_state().then(|| norm(None, STEPS, SegmentRunning::InTurn)).transpose()?,
        })
    }

    /// Logits of sequences, (steps, sequences, width).
    pub fn forward(&self, tape: &mut Tape<'_>, sequences: &Tensor, lengths: &Lengths) -> Result<Tensor, Error> {
        let inputs = tape.dense(&self.input, sequences);
        let inputs = match &self.input_norm {
            Some(norm) => self.normalise_inputs(tape, norm, &inputs, lengths)?,
            None => inputs,
        };
        let shape = [lengths.0.len, HIDDEN];
        let zeros = Tensor::data(tape.context.zeros("first state", lengths.0.len * HIDDEN), &shape);
        let mut state = zeros.clone();
        for step in 0..STEPS {
            let recurrent = match step {
                0 => zeros.clone(),
                _ => self.recur(tape, &state, (lengths, step))?,
            };
            state = tape.recurrent_cell((lengths, step), [&inputs.index(step), &recurrent, &state]);
        }
        Ok(tape.dense(&self.head, &state))
    }

    /// All steps at once, whichever of them share statistics.
    fn normalise_inputs(
        &self,
        tape: &mut Tape<'_>,
        norm: &Norm,
        inputs: &Tensor,
        lengths: &Lengths,
    ) -> Result<Tensor, Error> {
        let mut shape = Shape::new(&inputs.shape)?;
        if self.variant.by_step() {
            shape = shape.with_segments_along(0)?;
        }
        let masked = self.variant != Variant::InputPadded;
        let valid = masked.then(|| tape.valid_of_sequences(norm, &shape, lengths)).transpose()?;
        let options = NormOptions { shape: Some(shape), valid: valid.as_ref(), ..Default::default() };
        tape.batch_norm_with(norm, inputs, &options)
    }

    /// What the last state gives to this step; its statistics can only be those of the step.
    fn recur(&self, tape: &mut Tape<'_>, state: &Tensor, at: (&Lengths, usize)) -> Result<Tensor, Error> {
        let recurrent = tape.dense(&self.recurrent, state);
        let Some(norm) = &self.state_norm else { return Ok(recurrent) };
        let valid = tape.valid_at_step(norm, HIDDEN, at)?;
        // The layer has a set of running statistics for each step.
        let options = NormOptions { valid: Some(&valid), running_set: at.1 as u32, ..Default::default() };
        tape.batch_norm_with(norm, &recurrent, &options)
    }

    pub fn norms(&self) -> Vec<Norm> {
        [&self.input_norm, &self.state_norm].into_iter().flatten().cloned().collect()
    }

    pub fn parameters(&self) -> Vec<Parameter> {
        let dense = [&self.input, &self.recurrent, &self.head].into_iter().flat_map(Dense::parameters);
        dense.chain(self.norms().iter().flat_map(Norm::parameters)).collect()
    }
}
