//! How a kernel's workgroups and invocations are laid over a tensor.
//!
//! Both families hand every invocation a *lane* (rows: a channel; columns: a unit column) and a *position* within the
//! lane, let positions step through the lane's *extent* (rows: the units of the channel; columns: super-rows), and cut
//! the extent into *splits*, one workgroup each, for as many workgroups as fill the machine.

use super::kernel::Family;
use super::params::Params;
use super::profile::DeviceProfile;
use crate::{Error, Problem};

/// Units that an invocation takes per loop trip.
const UNITS_PER_BLOCK: u64 = 4;

/// Slots beyond this make the merge longer than what their splits save, unless the loop bound asks for them.
const MAX_SLOTS: u64 = 256;

/// Bytes of a channel's partial statistics in one slot.
const PARTIAL_SIZE: u64 = 16;

/// Rows shorter than this leave too much of their first and last unit to neighbours.
const LEAST_INNER_FOR_ROW_REDUCTION: u64 = 16;

/// Rows shorter than this make one lane's coefficients serve too few elements, unless columns are shorter still.
const LEAST_INNER_FOR_ROW_APPLICATION: u64 = 64;

/// Columns shorter than this make one lane's coefficients, which take four channels' loads, serve too few elements.
const LEAST_SUPER_ROWS_FOR_COLUMN_APPLICATION: u64 = 8;

/// The shape of one dispatch, in the terms of `shaders/common/params.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub family: Family,
    pub workgroup_size: u32,
    pub tiles: u64,
    pub splits: u64,
    pub lanes: u64,
    pub positions: u64,
    pub row_units: u64,
    pub extent: u64,
    pub split_extent: u64,
    pub blocks: u64,
    /// Repetitions of the channel sequence in a super-row; 1 in the rows family.
    pub repeats: u64,
    /// Partials of a channel.
    pub slots: u64,
    pub aligned_rows: bool,
}

/// Whether the extent is cut as little as parallelism allows (every split costs a merge) or as finely as is handy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Reduction,
    Elementwise,
}

impl Geometry {
    /// For a kernel that reduces a tensor to one partial per channel and slot.
    pub(super) fn reduction(problem: Problem, profile: &DeviceProfile) -> Self {
        let quantum = problem.inner / gcd(problem.inner, 4);
        if problem.inner < LEAST_INNER_FOR_ROW_REDUCTION
            && quantum <= u64::from(profile.workgroup_size(Family::Columns))
        {
            Self::columns(problem, profile, Purpose::Reduction)
        } else {
            Self::rows(problem, profile, Purpose::Reduction)
        }
    }

    /// For a kernel that maps a tensor to a tensor.
    pub(super) fn elementwise(problem: Problem, profile: &DeviceProfile) -> Self {
        let super_rows = problem.outer / repeats(problem);
        let short_columns = super_rows < LEAST_SUPER_ROWS_FOR_COLUMN_APPLICATION;
        let least_inner = if short_columns { LEAST_INNER_FOR_ROW_REDUCTION } else { LEAST_INNER_FOR_ROW_APPLICATION };
        if problem.inner >= least_inner {
            Self::rows(problem, profile, Purpose::Elementwise)
        } else {
            Self::columns(problem, profile, Purpose::Elementwise)
        }
    }

    fn rows(problem: Problem, profile: &DeviceProfile, purpose: Purpose) -> Self {
        let aligned_rows = problem.inner.is_multiple_of(4);
        // An unaligned row of I elements touches at most this many units.
        let row_units = if aligned_rows { problem.inner / 4 } else { (problem.inner + 6) / 4 };
        let extent = problem.outer * row_units;
        let size = u64::from(profile.workgroup_size(Family::Rows));
        let positions = useful_positions(extent).min(size);
        let lanes = size / positions;
        let tiles = u64::from(problem.channels).div_ceil(lanes);
        let mut geometry = Self {
            family: Family::Rows,
            workgroup_size: profile.workgroup_size(Family::Rows),
            tiles,
            splits: 1,
            lanes,
            positions,
            row_units,
            extent,
            split_extent: 0,
            blocks: 0,
            repeats: 1,
            slots: 0,
            aligned_rows,
        };
        geometry.split(problem, profile, purpose);
        geometry.slots = geometry.splits;
        geometry
    }

    fn columns(problem: Problem, profile: &DeviceProfile, purpose: Purpose) -> Self {
        let width = u64::from(problem.channels) * problem.inner;
        let repeats = repeats(problem);
        let extent = problem.outer.div_ceil(repeats);
        let units = problem.elements().div_ceil(4);
        // A lone super-row that is cut off has fewer units than a whole one.
        let row_units = (repeats * width / 4).min(units);
        let size = u64::from(profile.workgroup_size(Family::Columns));
        let useful = useful_positions(extent);
        let wanted = profile.tuning().lanes.max(size / useful.min(size));
        // A reduction merges the columns of a segment within the workgroup, so tiles must not cut segments.
        let quantum = match purpose {
            Purpose::Reduction => problem.inner / gcd(problem.inner, 4),
            Purpose::Elementwise => 1,
        };
        // Equally wide tiles; a lone tile has whole segments whatever its width.
        let tiles = row_units.div_ceil(wanted.min(size));
        let lanes = if tiles == 1 {
            row_units
        } else {
            let widest = (size / quantum * quantum).max(quantum);
            row_units.div_ceil(tiles).next_multiple_of(quantum).min(widest)
        };
        let positions = (size / lanes).min(useful);
        let mut geometry = Self {
            family: Family::Columns,
            workgroup_size: profile.workgroup_size(Family::Columns),
            tiles: row_units.div_ceil(lanes),
            splits: 1,
            lanes,
            positions,
            row_units,
            extent,
            split_extent: 0,
            blocks: 0,
            repeats,
            slots: 0,
            aligned_rows: false,
        };
        geometry.split(problem, profile, purpose);
        geometry.slots = if extent == 1 { problem.outer } else { geometry.splits * repeats };
        geometry
    }

    /// Cuts the extent.
    fn split(&mut self, problem: Problem, profile: &DeviceProfile, purpose: Purpose) {
        let tuning = profile.tuning();
        let trip = self.positions * UNITS_PER_BLOCK;
        let blocks = self.extent.div_ceil(trip);
        let wanted = tuning.workgroups.div_ceil(self.tiles);
        let splits = match purpose {
            Purpose::Reduction => wanted.min(blocks / tuning.least_blocks).min(max_slots(problem) / self.repeats),
            Purpose::Elementwise => wanted.max(blocks.div_ceil(tuning.elementwise_blocks)).min(blocks),
        };
        let splits = splits.max(blocks.div_ceil(profile.max_blocks())).max(1);
        // Whole trips per split, so that only the last split has a ragged end.
        self.split_extent = (blocks.div_ceil(splits) * trip).min(self.extent);
        self.splits = self.extent.div_ceil(self.split_extent);
        self.blocks = self.split_extent.div_ceil(trip);
    }

    /// The workgroup counts, folded so that no dimension exceeds the device's limit.
    pub(super) fn workgroups(&self, profile: &DeviceProfile) -> Result<[u32; 3], Error> {
        fold(self.tiles * self.splits, profile)
    }

    /// Fills in the fields that describe the walk. All of them fit: the tensor fits one binding.
    pub(super) fn describe(&self, params: &mut Params) {
        params.groups = narrow(self.tiles * self.splits);
        params.tiles = narrow(self.tiles);
        params.lanes = narrow(self.lanes);
        params.positions = narrow(self.positions);
        params.merge_groups = merge_groups(self.positions);
        params.row_units = narrow(self.row_units);
        params.extent = narrow(self.extent);
        params.split_extent = narrow(self.split_extent);
        params.step_outer = narrow(self.positions / self.row_units);
        params.step_unit = narrow(self.positions % self.row_units);
        params.blocks = narrow(self.blocks);
        params.repeats = narrow(self.repeats);
        params.slots = narrow(self.slots);
        if self.aligned_rows {
            params.flags |= Params::ALIGNED_ROWS;
        }
    }
}

/// The shape of a finalize dispatch: lanes are groups of four channels, positions walk the slots.
pub(crate) struct FinalizeGeometry {
    pub workgroup_size: u32,
    pub groups: u64,
    pub lanes: u64,
    pub positions: u64,
}

impl FinalizeGeometry {
    pub(super) fn new(channels: u32, slots: u64, profile: &DeviceProfile) -> Self {
        let workgroup_size = profile.finalize_workgroup_size();
        let size = u64::from(workgroup_size);
        let positions = slots.div_ceil(4).max(1).next_power_of_two().min(size);
        let lanes = size / positions;
        Self { workgroup_size, groups: u64::from(channels).div_ceil(4).div_ceil(lanes), lanes, positions }
    }

    pub(super) fn workgroups(&self, profile: &DeviceProfile) -> Result<[u32; 3], Error> {
        fold(self.groups, profile)
    }

    pub(super) fn describe(&self, params: &mut Params, slots: u64) {
        params.groups = narrow(self.groups);
        params.tiles = narrow(self.groups);
        params.lanes = narrow(self.lanes);
        params.positions = narrow(self.positions);
        params.merge_groups = merge_groups(self.positions);
        params.slots = narrow(slots);
    }
}

/// Outer steps of a super-row: the fewest that make a multiple of four elements.
fn repeats(problem: Problem) -> u64 {
    4 / gcd(u64::from(problem.channels) * problem.inner, 4)
}

/// Slots that keep the workspace within 1 % of the tensor, or within 64 bytes a channel and 64 KiB.
fn max_slots(problem: Problem) -> u64 {
    let channels = u64::from(problem.channels);
    let budget = (problem.elements() * 4 / 100).max(64 * channels + (64 << 10));
    // What the workspace holds besides partials: 24 bytes a channel and the alignment of its regions.
    let partials = budget.saturating_sub(24 * channels.next_multiple_of(4) + 1024);
    (partials / (PARTIAL_SIZE * channels.next_multiple_of(4))).min(MAX_SLOTS)
}

/// Positions that have a whole block each; more would idle.
fn useful_positions(extent: u64) -> u64 {
    extent.div_ceil(UNITS_PER_BLOCK).next_power_of_two()
}

/// About the square root, so that both merge steps are equally short.
fn merge_groups(positions: u64) -> u32 {
    1 << (positions.next_power_of_two().ilog2() / 2)
}

fn fold(groups: u64, profile: &DeviceProfile) -> Result<[u32; 3], Error> {
    let limit = u64::from(profile.max_compute_workgroups_per_dimension);
    let rows = groups.div_ceil(limit.max(1));
    if rows > limit {
        return Err(Error::LimitExceeded {
            limit: "max_compute_workgroups_per_dimension",
            required: rows,
            available: limit,
        });
    }
    Ok([narrow(groups.min(limit)), narrow(rows), 1])
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Planner values fit 32 bits because tensors fit one binding, which is checked first; saturation would be a planner bug
/// that the coverage tests catch.
pub(crate) fn narrow(value: u64) -> u32 {
    debug_assert!(u32::try_from(value).is_ok(), "{value} does not fit 32 bits");
    u32::try_from(value).unwrap_or(u32::MAX)
}
