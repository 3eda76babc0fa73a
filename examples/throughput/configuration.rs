//! What all batch norms of a run have in common: the element type, and what is fused.

use std::fmt;

use clap::{Args, ValueEnum};
use serde::Serialize;
use wgpu_batch_norm::{BatchNormDescriptor, Layout};

use crate::element::Element;

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
            ..Default::default()
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
        Ok(())
    }
}
