//! What a layer is described by.

use crate::BatchNormDescriptor;

/// Describes a layer. The default is PyTorch's, but for the channel count, of which there is none.
///
/// ```
/// use wgpu_batch_norm::{BatchNormDescriptor, BatchNormLayerDescriptor};
/// // The last batch norm of a residual block, which starts as nothing (Goyal et al., arXiv 1706.02677, section 5.1).
/// let descriptor = BatchNormLayerDescriptor {
///     batch_norm: BatchNormDescriptor { channels: 64, label: Some("block 3".into()), ..Default::default() },
///     gamma: Some(0.0),
///     ..Default::default()
/// };
/// # assert_eq!((descriptor.beta, descriptor.track_running_statistics), (Some(0.0), true));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormLayerDescriptor {
    /// What is computed. Its label names the buffers too.
    pub batch_norm: BatchNormDescriptor,
    /// γ of every channel at first; `None`: no gamma, which means 1 for good. PyTorch's `affine=False` is none of either. Values
    /// of their own for the channels are written to [`BatchNormLayer::gamma`](crate::BatchNormLayer::gamma) by
    /// `Queue::write_buffer`, or loaded with a state. Default: 1.
    #[doc(alias = "affine")]
    #[doc(alias = "weight")]
    pub gamma: Option<f32>,
    /// β of every channel at first; `None`: no beta, which means 0 for good. Default: 0.
    #[doc(alias = "bias")]
    pub beta: Option<f32>,
    /// Whether there are running statistics: a mean of 0, a variance of 1 and 0 batches at first. Without them, inference takes
    /// the statistics of the batch. Default: true.
    #[doc(alias = "track_running_stats")]
    pub track_running_statistics: bool,
    /// Sets of running statistics, of C values each. 0 counts as 1. Default: 1.
    ///
    /// Where segments have their own ([`SegmentRunning::Separate`](crate::SegmentRunning::Separate)), as many as the shapes have
    /// segments: the sets stand one after the other, and steps take them all. Otherwise each set stands by itself, for uses
    /// of the layer that share gamma and beta but no statistics, such as the steps of a recurrent network or domains: steps
    /// take the first, and [`BatchNormLayer::running_set`](crate::BatchNormLayer::running_set) gives the others.
    pub running_sets: u32,
}

impl Default for BatchNormLayerDescriptor {
    fn default() -> Self {
        Self {
            batch_norm: BatchNormDescriptor::default(),
            gamma: Some(1.0),
            beta: Some(0.0),
            track_running_statistics: true,
            running_sets: 1,
        }
    }
}
