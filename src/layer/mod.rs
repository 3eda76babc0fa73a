//! A batch norm that owns what it learns: parameters, statistics and workspace. Built on [`BatchNorm`](crate::BatchNorm), and
//! nothing that it does is closed to a program that goes without it.

mod batch_norm_layer;
mod buffers;
mod descriptor;
#[cfg(feature = "safetensors")]
mod file;
mod reset;
mod state;
mod step;
mod transfer;

pub use batch_norm_layer::{BatchNormLayer, LayerParameter};
pub use descriptor::BatchNormLayerDescriptor;
#[cfg(feature = "safetensors")]
pub use file::StateTensor;
pub use state::{LayerState, RunningState};
pub use step::{LayerBackward, LayerForward, LayerMode};
