//! A small library of neural networks on wgpu, for the examples: what a program brings along that links the crate.
//!
//! Not part of the crate. A program names its layers ([`dense::Dense`], [`norm::Norm`], …), records a forward over them with a
//! [`tape::Tape`], and gets a [`tape::Program`] of dispatches for forward and backward. All is bound once; a training step then
//! records dispatches and allocates nothing:
//!
//! ```text
//! Context ── pipelines, made once
//!    Tape::new ── tape.dense(…) ── tape.batch_norm(…) ── tape.activation(…) ── tape.softmax_cross_entropy(…) ── finish ─► Program
//!    Feed ── gathers the batch of each step on the device
//!    Optimizer ── SGD with momentum, or Adam, over parameters and the crate's gamma and beta
//! feed.run(…, |pass| { program.record(pass); optimizer.record(pass) })
//! ```
//!
//! `tests.rs` checks every kernel against central differences of a forward in f64.
#![allow(dead_code, reason = "each program uses its part")]

pub mod activation;
pub mod arguments;
pub mod context;
pub mod convolution;
pub mod dense;
pub mod digits;
pub mod feed;
pub mod host;
pub mod initial;
pub mod loss;
pub mod norm;
pub mod optimizer;
pub mod perceptron;
pub mod plot;
pub mod pooling;
pub mod progress;
pub mod recurrent;
pub mod sequences;
pub mod snapshot;
#[path = "../support/mod.rs"]
pub mod support;
pub mod tape;
pub mod tensor;
pub mod timing;
pub mod trainer;
