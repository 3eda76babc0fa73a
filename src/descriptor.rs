//! What a batch norm is, before any shape or device is known.

use crate::{Activation, Convention, ElementType, Error, Layout, Problem, Shape};

/// Describes a batch norm: its channels, layout and convention.
///
/// ```
/// use wgpu_batch_norm::{BatchNormDescriptor, Convention, Layout};
/// let descriptor = BatchNormDescriptor {
///     channels: 64,
///     layout: Layout::ChannelsLast,
///     convention: Convention::keras(),
///     ..Default::default()
/// };
/// # assert!(descriptor.validate().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchNormDescriptor {
    /// A name for debuggers and profilers; prefixed to the labels of all objects made for it. Default: none.
    pub label: Option<String>,
    /// The channel count C, at least 1. There is no default that works: 0 is refused.
    pub channels: u32,
    /// Where the channels stand in the shapes. Default: channels first.
    pub layout: Layout,
    /// Epsilon, momentum, running variance and policies. Default: [`Convention::pytorch`].
    pub convention: Convention,
    /// The storage type of tensors. Default: [`ElementType::F32`].
    pub element: ElementType,
    /// The activation that follows. Default: none.
    pub activation: Activation,
}

impl BatchNormDescriptor {
    /// Checks the descriptor as every constructor does.
    ///
    /// # Errors
    /// [`Error::NoChannels`], [`Error::InvalidEpsilon`], [`Error::InvalidMomentum`], [`Error::InvalidSlope`].
    pub fn validate(&self) -> Result<(), Error> {
        if self.channels == 0 {
            return Err(Error::NoChannels);
        }
        self.convention.validate()?;
        self.activation.validate()
    }

    /// Whether plans of one serve the other; labels do not matter.
    pub(crate) fn plans_like(&self, other: &Self) -> bool {
        let unlabelled = |descriptor: &Self| Self { label: None, ..descriptor.clone() };
        unlabelled(self) == unlabelled(other)
    }

    /// The problem that a shape poses to this batch norm.
    pub(crate) fn problem(&self, shape: &Shape) -> Result<Problem, Error> {
        let problem = shape.problem(self.layout)?;
        if problem.channels == self.channels {
            Ok(problem)
        } else {
            Err(Error::ChannelMismatch { expected: self.channels, actual: problem.channels, layout: self.layout })
        }
    }
}
