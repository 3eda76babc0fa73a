//! The per-channel record that forward saves for backward.

/// The statistics of one channel, as saved by training forward and read by backward: four `f32`, 16 bytes.
///
/// The mean is `pivot + offset`, kept in two parts: the pivot is a value near the data, so that `(x − pivot) − offset`
/// does not carry the rounding of the mean itself. With deviations a millionth of the mean this is the difference
/// between right and noise. A caller who brings a mean of their own writes it as the pivot with an offset of 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ChannelStatistics {
    /// A value near the data of the channel.
    pub pivot: f32,
    /// Mean minus pivot.
    pub offset: f32,
    /// `1/sqrt(variance + epsilon)`; 0 where both are 0.
    #[doc(alias = "invstd")]
    #[doc(alias = "rstd")]
    pub inverse_deviation: f32,
    /// The population variance `Σ(x − mean)²/M`.
    pub variance: f32,
}

impl ChannelStatistics {
    /// The mean, `pivot + offset`, rounded once.
    #[must_use]
    pub fn mean(&self) -> f32 {
        self.pivot + self.offset
    }
}
