//! How many invocations of a workgroup go over the rows of a channel, or of four, together. The fewer they are, the more channels lie
//! side by side in a workgroup, and the longer are the pieces of memory that it reads.

use super::geometry::{Tensor, UNITS_PER_BLOCK};
use super::kernel::Family;
use super::profile::DeviceProfile;
use crate::Problem;

/// Elements of a row that is best mapped in the order of memory, unless its channel has few elements.
const LONG_ROW: u64 = 128;

/// Elements of a row of which a reduction, too, need not have several channels' side by side.
const VERY_LONG_ROW: u64 = 256;

/// Elements of a channel of long rows that one invocation maps.
const MAX_LONE_MAPPED: u64 = 512;

/// What is done with the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// They are reduced, or mapped by a kernel that reduces or merges first.
    Reduced,
    /// They are mapped, and nothing else.
    Mapped,
}

/// Positions of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Positions {
    pub count: u64,
    /// Quads: whether each takes whole rows run by run.
    pub runs: bool,
}

impl Positions {
    /// For so many lanes of so many units each.
    pub(super) fn of_rows(
        tensor: Tensor,
        profile: &DeviceProfile,
        family: Family,
        lanes: u64,
        extent: u64,
        used: Use,
    ) -> Self {
        let (tuning, problem) = (profile.tuning(), tensor.part());
        let size = profile.rows_workgroup_size();
        let lone = lone_positions(problem, profile, family).min(size);
        // What merges nothing has less to gain, and reads long rows in the order of memory otherwise.
        let most_elements = match (family, used) {
            (Family::Rows, Use::Mapped) if problem.inner >= LONG_ROW => MAX_LONE_MAPPED,
            _ => u64::MAX,
        };
        let most_elements = most_elements.min(lone * tuning.lone_elements(family));
        // What is left to few invocations must fill the machine, and its loops must end.
        if tensor.segmentation.count() <= most_elements && lone * lanes >= size * tuning.least_whole_groups {
            return Self { count: lone, runs: family == Family::Quads };
        }
        let useful = useful_positions(extent).min(size);
        let beside = u64::from(problem.channels) >= size && tensor.segmentation.count() > tuning.lone_elements(family);
        let count = match family {
            // Where neighbouring lanes are neighbours in memory, and channels too long for registers.
            Family::Rows if profile.is_cpu() && profile.vector_width > 0 && beside => {
                // Twice as many workgroups as must be, since channels are long, and loops that end.
                let fits = |count: u64| {
                    let fills = count * lanes >= 2 * size * tuning.least_whole_groups;
                    fills && extent.div_ceil(count * UNITS_PER_BLOCK) <= profile.max_blocks()
                };
                let mut count = few_positions(problem.inner, used).min(useful);
                while count < useful && !fits(count) {
                    count *= 2;
                }
                count
            }
            Family::Rows => {
                let side_by_side = rows_side_by_side(problem.inner, profile).min(lanes.next_power_of_two());
                useful.min((size / side_by_side).max(1))
            }
            Family::Quads | Family::Columns => useful,
        };
        Self { count, runs: false }
    }
}

/// Positions that have a whole block each; more would idle.
pub(super) fn useful_positions(extent: u64) -> u64 {
    extent.div_ceil(UNITS_PER_BLOCK).next_power_of_two()
}

/// Positions of a channel, or of a quad, whose elements are left to so few.
fn lone_positions(problem: Problem, profile: &DeviceProfile, family: Family) -> u64 {
    match family {
        Family::Quads => rows_in_turn(problem, profile),
        Family::Rows | Family::Columns => 1,
    }
}

/// Positions that rows of a channel of many elements are best read by where drivers have vectors. A row far from the next one is a page of
/// memory of its own, and processors keep track of so many pages only: where rows are short, workgroups read those of several channels
/// as one piece. How many of them is measured.
const fn few_positions(inner: u64, used: Use) -> u64 {
    match used {
        Use::Mapped if inner < LONG_ROW => 2,
        Use::Reduced if inner < LONG_ROW => 1,
        Use::Reduced if inner < VERY_LONG_ROW => 4,
        Use::Mapped | Use::Reduced => u64::MAX,
    }
}

/// Channels that a workgroup takes at least where rows are shorter than what is read of memory at once.
const fn rows_side_by_side(inner: u64, profile: &DeviceProfile) -> u64 {
    const SHORT: u64 = 16;
    const SIDE_BY_SIDE: u64 = 32;
    if profile.is_cpu() || inner == 0 || inner >= SHORT { 1 } else { SIDE_BY_SIDE.div_ceil(inner).next_power_of_two() }
}

/// Invocations that take rows of a quad in turn. Rows of one quad lie far apart, each in a page of its own, and are so many streams
/// for a processor to fetch ahead; the rows of neighbouring quads, at the same place in memory, are one that it cannot make out. Not where
/// rows are too short for a stream, nor few, nor on drivers where it was not measured.
const fn rows_in_turn(problem: Problem, profile: &DeviceProfile) -> u64 {
    const SHORT: u64 = 32;
    const FEW: u64 = 8;
    let streams = problem.inner >= SHORT && problem.outer >= FEW;
    if streams && profile.vector_width > 0 { 4 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdapterClass, ElementType, Segmentation};

    /// Of rows, where they are reduced and where they are mapped.
    fn positions(outer: u64, channels: u32, inner: u64, profile: &DeviceProfile) -> [u64; 2] {
        let problem = Problem { outer, channels, inner };
        let tensor = Tensor::new(Segmentation::whole(problem), ElementType::F32, channels.into());
        [Use::Reduced, Use::Mapped].map(|used| {
            let extent = outer * inner.div_ceil(4);
            Positions::of_rows(tensor, profile, Family::Rows, channels.into(), extent, used).count
        })
    }

    #[test]
    fn positions_of_rows_change_exactly_at_their_thresholds() {
        let profile = DeviceProfile::webgpu(AdapterClass::Cpu);
        for (outer, channels, inner, expected) in [
            // Long rows.
            (64, 64, 124, [1, 2]),
            (64, 64, 128, [4, 8]),
            // Very long ones.
            (64, 64, 252, [4, 8]),
            (64, 64, 256, [8, 8]),
            // Channels that are left to one invocation whatever their rows, and, where they are mapped, if these are long.
            (32, 64, 64, [1, 1]),
            (33, 64, 64, [1, 2]),
            (8, 64, 256, [1, 8]),
            (9, 64, 256, [8, 8]),
            (4, 64, 128, [1, 1]),
            (5, 64, 128, [1, 8]),
            // Channels that fill the machine: for one invocation each, and for few.
            (32, 32, 64, [1, 1]),
            (32, 31, 64, [8, 8]),
            (33, 31, 64, [4, 4]),
            (512, 64, 64, [1, 2]),
            (512, 63, 64, [2, 2]),
            (512, 31, 64, [4, 4]),
            (512, 15, 64, [8, 8]),
            // Channels that registers hold.
            (7, 31, 60, [8, 8]),
            // Loops that end.
            (16_384, 64, 16, [1, 2]),
            (16_385, 64, 16, [2, 2]),
        ] {
            assert_eq!(positions(outer, channels, inner, &profile), expected, "{outer}×{channels}×{inner}");
        }
    }

    #[test]
    fn machines_without_vectors_read_long_channels_one_at_a_time() {
        let of_other = DeviceProfile { vector_width: 0, ..DeviceProfile::webgpu(AdapterClass::Cpu) };
        assert_eq!(positions(512, 64, 64, &of_other), [8, 8]);
        assert_eq!(positions(32, 64, 64, &of_other), [1, 1]);
        for class in [AdapterClass::Integrated, AdapterClass::Discrete] {
            assert_eq!(positions(512, 64, 64, &DeviceProfile::webgpu(class)), [256, 256]);
            assert_eq!(positions(32, 64, 64, &DeviceProfile::webgpu(class)), [128, 128]);
            // Plans for GPUs that a software driver runs.
            let with_vectors = DeviceProfile { vector_width: 8, ..DeviceProfile::webgpu(class) };
            assert_eq!(positions(512, 64, 64, &with_vectors), [256, 256]);
            assert_eq!(positions(1024, 64, 4, &with_vectors), [32, 32]);
        }
    }
}
