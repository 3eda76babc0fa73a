//! What all batch norms of a run have in common: the element type, what is fused, and what shares statistics with what.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;
use wgpu_batch_norm::{BatchNormDescriptor, Convention, Error, Layout, SegmentRunning, Shape};

use crate::element::Element;
use crate::shapes::{self, Dims};

#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Configuration {
    /// The element type of the tensors
    #[arg(long, value_enum, default_value_t)]
    pub element: Element,
    /// The activation that follows
    #[arg(long, value_enum, default_value_t)]
    pub activation: Activation,
    /// Add a residual before the activation; the backwards return its gradient
    #[arg(long)]
    pub residual: bool,
    /// What the backwards take the activation's derivative from
    #[arg(long, value_enum, default_value_t)]
    pub source: Source,
    /// Cut the batch into K equal sub-batches, or into `each` of its samples, with statistics of their own
    #[arg(long, value_name = "K|each")]
    pub segments: Option<Segments>,
    /// Flag about a quarter of the positions as padding
    #[arg(long)]
    pub padded: bool,
    /// Batch renormalization in training and its backward
    #[arg(long = "renormalize")]
    pub renormalized: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Activation {
    #[default]
    Identity,
    Relu,
    /// With a slope of 0.01
    LeakyRelu,
    Silu,
    Gelu,
    GeluTanh,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The input, and the residual if there is one
    #[default]
    Recompute,
    /// What forward returned
    Output,
    /// A mask that forward writes
    Mask,
}

/// What a batch is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Segments {
    /// Every sample for itself: instance norm.
    Each,
    /// Equal sub-batches.
    #[serde(untagged)]
    SubBatches(usize),
}

impl FromStr for Segments {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("each", _) => Ok(Self::Each),
            (_, Ok(count)) if count > 0 => Ok(Self::SubBatches(count)),
            _ => Err("a number from 1 on, or `each`, is needed".into()),
        }
    }
}

impl Configuration {
    pub fn descriptor(&self, channels: usize, layout: Layout) -> BatchNormDescriptor {
        use wgpu_batch_norm::Activation as Fused;
        BatchNormDescriptor {
            channels: channels as u32,
            layout,
            element: self.element.element_type(),
            activation: match self.activation {
                Activation::Identity => Fused::Identity,
                Activation::Relu => Fused::Relu,
                Activation::LeakyRelu => Fused::LeakyRelu { slope: 0.01 },
                Activation::Silu => Fused::Silu,
                Activation::Gelu => Fused::Gelu,
                Activation::GeluTanh => Fused::GeluTanh,
            },
            convention: Convention {
                // As instance norm and ghost batch norm have it in PyTorch.
                segment_running: match self.segments {
                    Some(Segments::Each) => SegmentRunning::Averaged,
                    Some(Segments::SubBatches(_)) | None => SegmentRunning::InTurn,
                },
                ..Convention::default()
            },
            ..Default::default()
        }
    }

    /// The shape as it is stored, with its segments.
    pub fn shape(&self, dims: Dims, layout: Layout) -> Result<Shape, Error> {
        let shape = shapes::stored(dims, layout)?;
        match self.segments {
            None => Ok(shape),
            Some(Segments::Each) => shape.with_sub_batches(dims[0]),
            Some(Segments::SubBatches(count)) => shape.with_sub_batches(count),
        }
    }

    /// What the backwards take the derivative from; `None` where there is none to take.
    pub fn derivative(&self) -> Option<Source> {
        (self.activation != Activation::Identity).then_some(self.source)
    }

    /// Whether the derivative jumps, so that a rounding may change it altogether.
    pub const fn has_kink(&self) -> bool {
        matches!(self.activation, Activation::Relu | Activation::LeakyRelu)
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.element.element_type())?;
        if self.residual {
            f.write_str(" + residual")?;
        }
        if let Some(source) = self.derivative() {
            let [activation, source] = [self.activation.to_possible_value(), source.to_possible_value()]
                .map(|value| value.map_or_else(String::new, |value| value.get_name().to_string()));
            write!(f, " + {activation} ({source})")?;
        }
        match self.segments {
            None => {}
            Some(Segments::Each) => f.write_str(", each sample a segment")?,
            Some(Segments::SubBatches(count)) => write!(f, ", {count} segments")?,
        }
        for (is, word) in [(self.padded, ", padded"), (self.renormalized, ", renormalized")] {
            f.write_str(if is { word } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_a_number_or_each() {
        let written = |text: &str| text.parse::<Segments>().map(|segments| serde_json::to_string(&segments).unwrap());
        assert_eq!(written("4"), Ok("4".into()));
        assert_eq!(written("each"), Ok("\"each\"".into()));
        assert!(written("0").is_err() && written("-1").is_err() && written("all").is_err());
    }

    #[test]
    fn a_shape_is_cut_as_asked_in_either_layout() {
        let segments = |segments, layout| {
            let configuration = Configuration { segments, ..Configuration::default() };
            let shape = configuration.shape([6, 3, 5, 2], layout)?;
            Ok(shape.segmentation(layout)?.segments())
        };
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            assert_eq!(segments(None, layout), Ok(1));
            assert_eq!(segments(Some(Segments::SubBatches(2)), layout), Ok(2));
            assert_eq!(segments(Some(Segments::Each), layout), Ok(6));
        }
        let uneven = Err(Error::UnevenSegments { length: 6, segments: 4 });
        assert_eq!(segments(Some(Segments::SubBatches(4)), Layout::ChannelsFirst), uneven);
    }

    #[test]
    fn a_configuration_says_all_that_is_not_plain() {
        let plain = Configuration::default();
        assert_eq!(plain.to_string(), "f32");
        let segments = Some(Segments::SubBatches(4));
        let other = Configuration { residual: true, segments, padded: true, renormalized: true, ..plain };
        assert_eq!(other.to_string(), "f32 + residual, 4 segments, padded, renormalized");
    }
}
