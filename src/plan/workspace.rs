//! Where scratch lies within the caller's workspace.

use std::ops::Range;

use super::profile::DeviceProfile;
use crate::Error;

/// Byte ranges within the workspace. Every operation uses the same ones; nothing survives a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workspace {
    /// Partials of either reduction.
    pub partials: Range<u64>,
    /// What maps need of each instance, two records, where they have no bindings for its parts. Until that is written, and where
    /// it never is, the first half belongs to the partials: reductions leave the channels' parameters there, one record each
    /// from the start of this region beside partial statistics, three of half the size past the sums beside partial gradient sums.
    pub prepared: Range<u64>,
    /// Statistics records of steps that are not given a `saved` slice.
    pub statistics: Range<u64>,
    /// dgamma and dbeta of each instance, where several share a gamma; else nothing.
    pub gamma_gradients: Range<u64>,
    pub beta_gradients: Range<u64>,
    pub size: u64,
}

/// Bytes of the larger partial, that of the statistics reduction.
pub(super) const RECORD_SIZE: u64 = 16;

impl Workspace {
    /// `channels` as kernels call them: instances; `partials` are records.
    pub(crate) fn new(channels: u64, shares: bool, partials: u64, profile: &DeviceProfile) -> Result<Self, Error> {
        let mut end = 0;
        let mut region = |size: u64| {
            let start = u64::next_multiple_of(end, profile.slice_alignment());
            end = start + size;
            start..end
        };
        let partials = region(partials * RECORD_SIZE);
        let prepared = region(channels * 2 * RECORD_SIZE);
        let statistics = region(channels * 16);
        let parts = if shares { channels * 4 } else { 0 };
        let (gamma_gradients, beta_gradients) = (region(parts), region(parts));
        let workspace = Self { partials, prepared, statistics, gamma_gradients, beta_gradients, size: end };
        let available = profile.max_storage_buffer_binding_size.min(4 * super::MAX_ELEMENTS);
        for bound in [workspace.partials_with_parameters(), workspace.prepared.clone()] {
            let required = bound.end - bound.start;
            if required > available {
                return Err(Error::LimitExceeded { limit: "max_storage_buffer_binding_size", required, available });
            }
        }
        Ok(workspace)
    }

    /// What a kernel binds that has nothing prepared.
    pub(crate) const fn partials_with_parameters(&self) -> Range<u64> {
        self.partials.start..self.prepared.start.midpoint(self.prepared.end)
    }

    /// The record past the partials that is the first of channels' parameters beside partial statistics.
    pub(super) const fn parameters_beside_statistics(&self) -> u64 {
        (self.prepared.start - self.partials.start) / RECORD_SIZE
    }
}
