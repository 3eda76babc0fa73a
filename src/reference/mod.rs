//! The CPU reference path: every operation in f64, written to be read as the specification.
//!
//! Each kernel is verified against these functions, and a program without an adapter can run on them. Names, fields and
//! conventions are those of the device path; slices of host memory take the place of buffer slices.
//!
//! Notation, per instance (a channel, where the shape has no segments; see [`Segmentation`]): `W` elements without
//! padding (the problem's M where there are neither segments nor padding), mean `μ`, population variance `v`,
//! `r = 1/√(v + ε)`, `x̂ = (x − μ)·r`, residual `z` (0 if there is none), pre-activation `t = γ·x̂ + β + z`, output
//! `y = f(t)`, incoming gradient `g = dL/dy`, gradient through the activation `h = g·f'(t)`.
//! [`Activation::value`](crate::Activation::value) is f, [`Activation::derivative`](crate::Activation::derivative) is
//! f'. Sources: Ioffe and Szegedy, *Batch Normalization*, 2015 (arXiv 1502.03167), section 3, for the training forward
//! and backward; PyTorch and ONNX for what the paper leaves open (see [`crate::Convention`]).
//!
//! Slices have their element type from Rust ([`Element`]); that of the descriptor is not looked at. They are read
//! exactly into f64, and every result is rounded once, when it is written.
//!
//! ```
//! use wgpu_batch_norm::{BatchNormDescriptor, Shape, reference};
//! let bn = reference::BatchNorm::new(&BatchNormDescriptor { channels: 2, ..Default::default() })?;
//! let plan = bn.plan(&Shape::new(&[2, 2])?)?;
//! let (x, mut y) = ([1.0_f32, 10.0, 3.0, 30.0], [0.0_f32; 4]);
//! bn.training(&plan, reference::TrainingBuffers { input: &x, output: &mut y, ..Default::default() })?;
//! assert!((y[0] + 1.0).abs() < 1e-4 && (y[3] - 1.0).abs() < 1e-4);
//! # Ok::<(), wgpu_batch_norm::Error>(())
//! ```

mod activation;
mod activation_state;
mod backward;
mod element;
mod fold;
mod forward;
mod inference;
mod instances;
mod output_backward;
mod parts;
mod population;
mod renormalization;
mod running;
mod training;

pub use activation_state::ActivationState;
pub use backward::{BackwardBuffers, FrozenBackwardBuffers, Gradient};
pub use element::Element;
pub use fold::FoldBuffers;
pub use inference::InferenceBuffers;
pub use output_backward::OutputBackwardBuffers;
pub use renormalization::Renormalization;
pub use running::RunningStatistics;
pub use training::TrainingBuffers;

use crate::convention::SegmentRunning;
use crate::{BatchNormDescriptor, Error, Problem, Segmentation, SequenceAxes, Shape};

/// A batch norm on the CPU; the twin of `BatchNorm`.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    descriptor: BatchNormDescriptor,
}

/// A shape checked against the descriptor; the twin of `Plan`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    descriptor: BatchNormDescriptor,
    shape: Shape,
    problem: Problem,
    segmentation: Segmentation,
    /// Over which running statistics stand.
    recorded: Segmentation,
}

impl Plan {
    /// The shape as `outer × channels × inner`.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// How the shape falls into instances, each with statistics of its own.
    #[must_use]
    pub const fn segmentation(&self) -> Segmentation {
        self.segmentation
    }
}

impl BatchNorm {
    /// Checks the descriptor.
    ///
    /// # Errors
    /// As [`BatchNormDescriptor::validate`].
    pub fn new(descriptor: &BatchNormDescriptor) -> Result<Self, Error> {
        descriptor.validate()?;
        Ok(Self { descriptor: descriptor.clone() })
    }

    /// Checks a shape against the descriptor.
    ///
    /// # Errors
    /// [`Error::ShapeTooLarge`], [`Error::ChannelMismatch`], [`Error::SegmentsNotServed`].
    pub fn plan(&self, shape: &Shape) -> Result<Plan, Error> {
        let problem = self.descriptor.problem(shape)?;
        let segmentation = shape.segmentation(self.descriptor.layout)?;
        let recorded = match self.descriptor.convention.segment_running {
            SegmentRunning::Separate => segmentation,
            SegmentRunning::InTurn | SegmentRunning::Averaged => Segmentation::whole(problem),
        };
        Ok(Plan { descriptor: self.descriptor.clone(), shape: shape.clone(), problem, segmentation, recorded })
    }

    /// The descriptor.
    #[must_use]
    pub const fn descriptor(&self) -> &BatchNormDescriptor {
        &self.descriptor
    }

    /// What padded sequences leave valid: a flag for each position, `o·inner + i` of the plan's problem, true where the
    /// step is below the length of its sequence.
    ///
    /// ```
    /// use wgpu_batch_norm::{BatchNormDescriptor, Layout, SequenceAxes, Shape, reference};
    /// let layout = Layout::ChannelsLast;
    /// let bn = reference::BatchNorm::new(&BatchNormDescriptor { channels: 8, layout, ..Default::default() })?;
    /// let plan = bn.plan(&Shape::new(&[2, 3, 8])?)?;
    /// let valid = bn.valid_positions(&plan, &[3, 1], SequenceAxes { sequence: 0, step: 1 })?;
    /// assert_eq!(valid, [true, true, true, true, false, false]);
    /// # Ok::<(), wgpu_batch_norm::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidAxis`], [`Error::PlanMismatch`], and [`Error::WrongLength`] unless there is a length for each
    /// sequence.
    pub fn valid_positions(&self, plan: &Plan, lengths: &[u32], axes: SequenceAxes) -> Result<Vec<bool>, Error> {
        self.valid_positions_from(plan, lengths, axes, 0)
    }

    /// The same where the tensor's first step is the sequences' step `first_step`.
    ///
    /// # Errors
    /// As [`BatchNorm::valid_positions`].
    pub fn valid_positions_from(
        &self,
        plan: &Plan,
        lengths: &[u32],
        axes: SequenceAxes,
        first_step: u32,
    ) -> Result<Vec<bool>, Error> {
        self.check(plan)?;
        let [sequence, step] = plan.shape.sequence_axes(self.descriptor.layout, axes)?;
        check_length("lengths", lengths, plan.shape.dimensions()[axes.sequence] as u64)?;
        let valid = |position| {
            u64::from(first_step) + step.index_of(position) < u64::from(lengths[sequence.index_of(position) as usize])
        };
        Ok((0..plan.problem.count()).map(valid).collect())
    }

    fn check(&self, plan: &Plan) -> Result<(), Error> {
        if plan.descriptor.plans_like(&self.descriptor) { Ok(()) } else { Err(Error::PlanMismatch) }
    }
}

/// `1/√(v + ε)`, and 0 where `v + ε = 0` (PyTorch's rule), so that a constant channel gives beta even without epsilon.
fn inverse_deviation(variance: f64, epsilon: f64) -> f64 {
    let sum = variance + epsilon;
    if sum == 0.0 { 0.0 } else { 1.0 / sum.sqrt() }
}

/// The words of a mask of one bit an element.
fn mask_words(problem: Problem) -> u64 {
    problem.elements().div_ceil(32)
}

/// Reads a per-channel parameter that may be absent.
fn parameter<P: Element>(values: Option<&[P]>, channel: usize, absent: f64) -> f64 {
    values.map_or(absent, |values| values[channel].to_f64())
}

fn check_length<T>(binding: &'static str, slice: &[T], expected: u64) -> Result<(), Error> {
    let actual = slice.len() as u64;
    if actual == expected { Ok(()) } else { Err(Error::WrongLength { binding, expected, actual }) }
}

fn check_optional<T>(binding: &'static str, slice: Option<&[T]>, expected: u64) -> Result<(), Error> {
    slice.map_or(Ok(()), |slice| check_length(binding, slice, expected))
}
