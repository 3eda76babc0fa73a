//! The tensor as batch normalization sees it: `outer × channels × inner`.
//!
//! Knows nothing of wgpu.

mod layout;
mod shape;

pub use layout::Layout;
pub use shape::{Problem, Shape};
