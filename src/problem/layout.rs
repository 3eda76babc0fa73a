//! Where the channel dimension stands.

/// The position of the channel dimension in a row-major (contiguous) tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Channels are the second dimension: (N,C), (N,C,L), (N,C,H,W), (N,C,D,H,W). PyTorch's and ONNX's default.
    #[default]
    ChannelsFirst,
    /// Channels are the last dimension: (N,C), (N,L,C), (N,H,W,C), (N,D,H,W,C). Keras' and Flax' default.
    ChannelsLast,
}

impl Layout {
    /// The index of the channel dimension in a tensor of `rank` dimensions (2 to 5).
    #[must_use]
    pub const fn channel_axis(self, rank: usize) -> usize {
        match self {
            Self::ChannelsFirst => 1,
            Self::ChannelsLast => rank.saturating_sub(1),
        }
    }
}
