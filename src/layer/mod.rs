//! A batch norm that owns what it learns: parameters, statistics and workspace. Built on [`BatchNorm`](crate::BatchNorm), and
//! nothing that it does is closed to a program that goes without it.

mod batch_norm_layer;
#[cfg(feature = "safetensors")]
mod file;
mod state;
mod step;

pub use batch_norm_layer::{BatchNormLayer, BatchNormLayerDescriptor, LayerParameter};
#[cfg(feature = "safetensors")]
pub use file::StateTensor;
pub use state::{LayerState, RunningState};
pub use step::{LayerBackward, LayerForward, LayerMode};
