//! The tensor as batch normalization sees it: `outer × channels × inner`.
//!
//! Knows nothing of wgpu.

mod layout;
mod segmentation;
mod sequence;
mod shape;

pub use layout::Layout;
pub use segmentation::Segmentation;
pub(crate) use sequence::PositionAxis;
pub use sequence::SequenceAxes;
pub use shape::{Problem, Shape};
