//! The per-channel records that forward writes: statistics for backward, and health; and moments of many batches.

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

/// How batch renormalization corrected one channel, as saved by training forward and read by backward: two `f32`, 8 bytes.
///
/// y = f(γ·(x̂·scale + shift) + β + z); both are constants to backward.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ChannelRenormalization {
    /// R: the batch's deviation over the running one, within `1/r_max` to `r_max`.
    pub scale: f32,
    /// D: the batch's mean minus the running one, over the running deviation, within `−d_max` to `d_max`.
    pub shift: f32,
}

/// Count, mean and M2 of one channel over any number of batches, or over a part of one: 16 bytes, all zero for none.
///
/// Sets of them merge exactly (Chan, Golub and LeVeque), so that statistics of a whole data set come out whatever batches it is
/// cut into. The mean is `pivot + offset`, as in [`ChannelStatistics`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ChannelMoments {
    /// Elements; stays at the largest value once it is reached.
    pub count: u32,
    /// A value near the data of the channel.
    pub pivot: f32,
    /// Mean minus pivot.
    pub offset: f32,
    /// `Σ(x − mean)²`.
    pub m2: f32,
}

impl ChannelMoments {
    /// The mean, `pivot + offset`, rounded once.
    #[must_use]
    pub fn mean(&self) -> f32 {
        self.pivot + self.offset
    }
}

/// The gradient sums of one channel over a part of a batch: two `f32`, 8 bytes. Those of parts add up.
///
/// With `h = g·f'(t)`, the gradient before the activation, and x̂ normalised by the statistics of the whole batch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ChannelGradientSums {
    /// `Σh`.
    pub sum: f32,
    /// `Σh·x̂`.
    pub product: f32,
}

/// What training forward noticed about one channel, as flags in one `u32`; 0 is a healthy channel.
///
/// Written from the batch statistics, so the report costs no pass over the tensor.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ChannelHealth(pub u32);

impl ChannelHealth {
    /// The mean or the variance of the batch is infinite or not a number: so is an element, or their squares overflow.
    pub const NON_FINITE: u32 = 1;
    /// The variance of the batch is 0: all elements are the same, or so near each other that squares of their differences
    /// vanish in f32 (below about 1e-19).
    pub const ZERO_VARIANCE: u32 = 2;

    /// Whether the batch statistics are finite.
    #[must_use]
    pub const fn is_finite(self) -> bool {
        self.0 & Self::NON_FINITE == 0
    }

    /// Whether the variance of the channel is 0.
    #[must_use]
    pub const fn is_constant(self) -> bool {
        self.0 & Self::ZERO_VARIANCE != 0
    }
}
