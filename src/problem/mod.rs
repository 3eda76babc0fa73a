//! The tensor as batch normalization sees it: `outer × channels × inner`.
//!
//! Knows nothing of wgpu.

// First, so that what makes a shape stands first in its documentation.
mod shape;

mod layout;
mod segmentation;
mod sequence;

pub use layout::Layout;
pub use segmentation::Segmentation;
pub(crate) use sequence::PositionAxis;
pub use sequence::SequenceAxes;
pub use shape::{Problem, Shape};
