//! Where scratch lies within the caller's workspace.

use std::ops::Range;

use super::profile::DeviceProfile;
use crate::Error;

/// Byte ranges within the workspace. Every operation uses the same ones; nothing survives a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workspace {
    /// Partials of either reduction: `channels × slots` records and one for the batch count; the same again for one slot
    /// where slots are merged by a dispatch of its own; and the channels' parameters, one record each beside partial
    /// statistics, three of half the size beside partial gradient sums.
    pub partials: Range<u64>,
    /// Statistics records of steps that are not given a `saved` slice.
    pub statistics: Range<u64>,
    /// What maps need of each instance, eight values, where they have no bindings for its parts.
    pub prepared: Range<u64>,
    /// dgamma and dbeta of each instance, where several share a gamma; else nothing.
    pub gamma_gradients: Range<u64>,
    pub beta_gradients: Range<u64>,
    pub size: u64,
}

/// Bytes of the larger partial, that of the statistics reduction.
pub(super) const RECORD_SIZE: u64 = 16;

impl Workspace {
    /// `channels` as kernels call them: instances.
    pub(crate) fn new(
        channels: u64,
        shares: bool,
        slots: u64,
        merges_apart: bool,
        profile: &DeviceProfile,
    ) -> Result<Self, Error> {
        let limit = profile.max_storage_buffer_binding_size.min(4 * super::MAX_ELEMENTS);
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
        let merged = if merges_apart { channels + 1 } else { 0 };
        let partials = region((slots.max(1) * channels + 1 + merged + channels) * RECORD_SIZE)?;
        let statistics = region(channels * 16)?;
        let prepared = region(channels * 32)?;
        let parts = if shares { channels * 4 } else { 0 };
        let (gamma_gradients, beta_gradients) = (region(parts)?, region(parts)?);
        Ok(Self { partials, statistics, prepared, gamma_gradients, beta_gradients, size: end })
    }
}
