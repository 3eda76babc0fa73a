//! The error study: every operation on inputs whose mean is 1 to 1e7 deviations, over 2^6 to 2^26 elements a channel, in every
//! element type, against f64 truth and beside PyTorch's CPU kernels.
//!
//! Shared by the example, which measures and writes tables, and by the device tests, which hold a part of the grid to bounds.
//! `pytorch.py` makes the same inputs (`data.rs` says how) and the same measure of errors (`measure.rs`).
#![allow(dead_code, reason = "the example and the tests each use a part")]

mod data;
mod device;
mod measure;
mod pytorch;
mod truth;

pub use data::Data;
pub use device::errors_of;
pub use measure::{Errors, Quantity};
pub use pytorch::Peers;

use std::fmt;

use wgpu_batch_norm::{Activation, BatchNormDescriptor, ElementType, Error, Layout, Shape};

/// Samples of a batch, unless it is a matrix: its first dimension.
pub const SAMPLES: u64 = 8;

/// How the elements of a channel lie. A matrix (N,C) is the same to this crate as a batch with channels last, and another kernel
/// in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrangement {
    First,
    Last,
    Matrix,
}

/// What is computed, and how the batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// All operations on one tensor.
    Whole,
    /// Training and backward from the records of four parts, one of them empty.
    Parts,
    /// All operations in windows of about a fifth of the tensor.
    Windows,
    /// Training and backward with two sub-batches.
    Segments,
    /// With a fused activation.
    Silu,
    Gelu,
}

/// One point of the grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub element: ElementType,
    pub arrangement: Arrangement,
    pub variant: Variant,
    /// Mean over deviation, before x is rounded to the element type.
    pub ratio: f64,
    /// Elements a channel, as a power of two.
    pub length_log2: u32,
}

impl Case {
    pub const fn length(&self) -> u64 {
        1 << self.length_log2
    }

    /// As many as are affordable, so that signs, γ and β vary.
    pub const fn channels(&self) -> usize {
        match self.length_log2 {
            0..=18 => 4,
            19..=22 => 2,
            _ => 1,
        }
    }

    /// The ratio as a power of ten.
    pub fn decade(&self) -> u32 {
        self.ratio.log10().round() as u32
    }

    pub const fn elements(&self) -> usize {
        self.length() as usize * self.channels()
    }

    pub const fn layout(&self) -> Layout {
        match self.arrangement {
            Arrangement::First => Layout::ChannelsFirst,
            Arrangement::Last | Arrangement::Matrix => Layout::ChannelsLast,
        }
    }

    /// Elements of a channel that lie beside each other.
    pub const fn inner(&self) -> usize {
        match self.arrangement {
            Arrangement::First => (self.length() / SAMPLES) as usize,
            Arrangement::Last | Arrangement::Matrix => 1,
        }
    }

    /// Of so many samples.
    pub fn shape_of(&self, samples: u64) -> Result<Shape, Error> {
        let (samples, steps) = (samples as usize, (self.length() / SAMPLES) as usize);
        match self.arrangement {
            Arrangement::First => Shape::new(&[samples, self.channels(), steps]),
            Arrangement::Last => Shape::new(&[samples, steps, self.channels()]),
            Arrangement::Matrix => Shape::new(&[samples * steps, self.channels()]),
        }
    }

    pub fn shape(&self) -> Result<Shape, Error> {
        let shape = self.shape_of(SAMPLES)?;
        if self.variant == Variant::Segments { shape.with_sub_batches(2) } else { Ok(shape) }
    }

    pub const fn channel(&self, index: usize) -> usize {
        index / self.inner() % self.channels()
    }

    /// Sub-batch of an element.
    pub const fn segment(&self, index: usize) -> usize {
        if matches!(self.variant, Variant::Segments) { index / (self.elements() / 2) } else { 0 }
    }

    pub const fn segments(&self) -> usize {
        if matches!(self.variant, Variant::Segments) { 2 } else { 1 }
    }

    pub fn descriptor(&self) -> BatchNormDescriptor {
        BatchNormDescriptor {
            channels: self.channels() as u32,
            layout: self.layout(),
            element: self.element,
            activation: match self.variant {
                Variant::Silu => Activation::Silu,
                Variant::Gelu => Activation::Gelu,
                _ => Activation::Identity,
            },
            ..Default::default()
        }
    }

    /// As in the files of figures.
    pub fn element_name(&self) -> &'static str {
        match self.element {
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
            _ => "f32",
        }
    }

    pub const fn arrangement_name(&self) -> &'static str {
        match self.arrangement {
            Arrangement::First => "first",
            Arrangement::Last => "last",
            Arrangement::Matrix => "matrix",
        }
    }

    pub const fn variant_name(&self) -> &'static str {
        match self.variant {
            Variant::Whole => "whole",
            Variant::Parts => "parts",
            Variant::Windows => "windows",
            Variant::Segments => "segments",
            Variant::Silu => "silu",
            Variant::Gelu => "gelu",
        }
    }

    /// What PyTorch computes for it: the whole batch, however this crate cuts it.
    pub const fn peer(&self) -> Self {
        match self.variant {
            Variant::Parts | Variant::Windows => Self { variant: Variant::Whole, ..*self },
            _ => *self,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = (self.element_name(), self.arrangement_name(), self.variant_name());
        write!(f, "{} {} {} mean/deviation {:e} length 2^{}", names.0, names.1, names.2, self.ratio, self.length_log2)
    }
}

pub const ARRANGEMENTS: [Arrangement; 3] = [Arrangement::First, Arrangement::Last, Arrangement::Matrix];
pub const LENGTHS: [u32; 6] = [6, 10, 14, 18, 22, 26];

/// Means beyond 1e4 deviations are those of f32 alone: at a deviation of one, f16 ends at 65,504, and all values of bf16 are the
/// same at 1e4.
pub fn ratios(element: ElementType) -> Vec<f64> {
    let decades = if element == ElementType::F32 { 8 } else { 5 };
    (0..decades).map(|decade| 10_f64.powi(decade)).collect()
}

/// All of it. One channel lies the same way whatever the layout, so the longest are there once; and long ones take a while, so that
/// there are fewer of them.
pub fn grid() -> Vec<Case> {
    let mut cases = Vec::new();
    for element in ElementType::ALL {
        for variant in
            [Variant::Whole, Variant::Parts, Variant::Windows, Variant::Segments, Variant::Silu, Variant::Gelu]
        {
            for arrangement in ARRANGEMENTS {
                for length_log2 in LENGTHS {
                    for ratio in ratios(element) {
                        cases.push(Case { element, arrangement, variant, ratio, length_log2 });
                    }
                }
            }
        }
    }
    cases.retain(|case| {
        // Sub-batches and parts are cut between samples.
        let samples = case.arrangement != Arrangement::Matrix;
        let once = case.arrangement == Arrangement::First || case.channels() > 1;
        let all_ratios = case.length_log2 <= 18 || (case.element == ElementType::F32 && case.variant == Variant::Whole);
        let ratio = all_ratios || [0, 2, 4, 7].contains(&case.decade());
        let suits = match case.variant {
            Variant::Whole => true,
            Variant::Windows => samples,
            Variant::Parts | Variant::Segments => samples && case.length_log2 <= 22,
            Variant::Silu | Variant::Gelu => samples && case.length_log2 <= 18 && case.decade().is_multiple_of(3),
        };
        suits && once && ratio
    });
    cases
}
