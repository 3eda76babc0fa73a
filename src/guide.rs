//! Guides, a page each.
//!
//! | | |
//! |---|---|
//! | [`first_steps`] | from an empty folder to numbers that can be checked by hand |
//! | [`training_loop`] | what happens when: once, once a shape, every step; evaluation, micro-batches, recurrent networks |
//! | [`layouts`] | shapes, layouts, what a statistic is taken over, element types |
//! | [`porting`] | what PyTorch, ONNX, Keras, Flax and Burn call things and where they differ; state files |
//! | [`memory`] | every buffer with its size and life; keeping less |
//! | [`debugging`] | errors, symptoms, health, the reference, names in tools, timing, `tracing` |
//! | [`determinism`] | what repeats to the bit and what does not |
//! | [`limits`] | what is not built, sizes, what cannot be combined |
//! | [`derivation`] | where the formulas come from |
//! | [`synchronised`] | one batch over several devices |

#[doc = include_str!("../docs/guide/first-steps.md")]
pub mod first_steps {}
#[doc = include_str!("../docs/guide/training-loop.md")]
pub mod training_loop {}
#[doc = include_str!("../docs/guide/layouts.md")]
pub mod layouts {}
#[doc = include_str!("../docs/guide/porting.md")]
pub mod porting {}
#[doc = include_str!("../docs/guide/memory.md")]
pub mod memory {}
#[doc = include_str!("../docs/guide/debugging.md")]
pub mod debugging {}
#[doc = include_str!("../docs/guide/determinism.md")]
pub mod determinism {}
#[doc = include_str!("../docs/guide/limits.md")]
pub mod limits {}
#[doc = include_str!("../docs/derivation.md")]
pub mod derivation {}
#[doc = include_str!("../docs/synchronised.md")]
pub mod synchronised {}
