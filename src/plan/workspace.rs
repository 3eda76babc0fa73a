//! Where scratch lies within the caller's workspace.

use std::ops::Range;

use super::profile::DeviceProfile;
use crate::Error;

/// Byte ranges within the workspace. Every operation uses the same ones; nothing survives a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workspace {
    /// Partials of either reduction: `slots × fields × stride` floats, four fields for statistics, two for gradients.
    pub partials: Range<u64>,
    /// Statistics records of steps that are not given a `saved` slice.
    pub statistics: Range<u64>,
    /// mean(g) and mean(g·x̂): `2 × stride` floats.
    pub gradient_means: Range<u64>,
    pub size: u64,
}

/// Fields of a partial of the statistics reduction.
const STATISTICS_FIELDS: u64 = 4;

impl Workspace {
    pub(crate) fn new(channels: u32, slots: u64, profile: &DeviceProfile) -> Result<Self, Error> {
        let stride = stride(channels);
        let limit = profile.max_storage_buffer_binding_size.min(super::MAX_TENSOR_BYTES);
        let mut end = 0;
        let mut region = |size: u64| {
            if size > limit {
                return Err(Error::LimitExceeded {
                    limit: "max_storage_buffer_binding_size",
                    required: size,
                    available: limit,
                });
            }
            let start = u64::next_multiple_of(end, profile.slice_alignment());
            end = start + size;
            Ok(start..end)
        };
        // An empty batch has no partials, but a binding needs bytes.
        let partials = region(slots.max(1) * STATISTICS_FIELDS * stride * 4)?;
        let statistics = region(u64::from(channels) * 16)?;
        let gradient_means = region(2 * stride * 4)?;
        Ok(Self { partials, statistics, gradient_means, size: end })
    }
}

/// The channel count rounded up to four, so that a finalize invocation always has four channels to load.
pub(crate) fn stride(channels: u32) -> u64 {
    u64::from(channels).next_multiple_of(4)
}
