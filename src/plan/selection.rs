//! Which strategy serves which problem: tables, one a class of machine.
//!
//! The rules for software drivers were measured (`docs/performance.md`); those for GPUs follow published measurements
//! and are starting values until a GPU is measured. The `tune` example measures every strategy on the machine at hand.

use std::ops::RangeInclusive;

use super::geometry::{Geometry, Tensor, repeats};
use super::kernel::{Family, Operation};
use super::profile::{AdapterClass, DeviceProfile};
use super::strategy::{Choice, Strategy};
use crate::Problem;

/// Tensors that a rule is for.
#[derive(Clone, Debug)]
pub(super) struct Tensors {
    /// Elements of a row.
    pub inner: RangeInclusive<u64>,
    /// Super-rows: outer steps, or a part of them where a step is no multiple of four elements.
    pub super_rows: RangeInclusive<u64>,
    /// Only those whose rows begin and end with a unit.
    pub whole_rows: bool,
    /// Channels of a part at least.
    pub least_channels: u64,
}

impl Tensors {
    const fn with_super_rows(self, super_rows: RangeInclusive<u64>) -> Self {
        Self { super_rows, inner: self.inner, whole_rows: self.whole_rows, least_channels: self.least_channels }
    }

    const fn with_channels(self, least_channels: u64) -> Self {
        Self { least_channels, inner: self.inner, super_rows: self.super_rows, whole_rows: self.whole_rows }
    }

    fn include(&self, tensor: Tensor) -> bool {
        let problem = tensor.part();
        self.inner.contains(&problem.inner)
            && self.super_rows.contains(&super_rows(problem))
            && (!self.whole_rows || tensor.has_whole_rows())
            && u64::from(problem.channels) >= self.least_channels
    }
}

/// Where a strategy is the one to take. The first rule that matches, and whose strategy serves the problem, decides.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub strategy: Strategy,
    pub tensors: Tensors,
    /// Workgroups that the strategy must have at least, unless the tensor is small.
    pub least_groups: u64,
}

/// Tensors up to this many elements keep no machine busy however they are cut: the fewest dispatches win.
pub(super) const SMALL: u64 = 1 << 16;

const ANY: RangeInclusive<u64> = 0..=u64::MAX;
/// Super-rows that columns of short rows are not better for than quads.
const FEW: RangeInclusive<u64> = 0..=64;
const ROWS: Family = Family::Rows;
const COLUMNS: Family = Family::Columns;
const QUADS: Family = Family::Quads;

const fn split(reduction: Family, elementwise: Family) -> Strategy {
    Strategy::Split { reduction, elementwise }
}

const fn rule(strategy: Strategy, tensors: Tensors, least_groups: u64) -> Rule {
    Rule { strategy, tensors, least_groups }
}

const fn rows_of(inner: RangeInclusive<u64>) -> Tensors {
    Tensors { inner, super_rows: ANY, whole_rows: false, least_channels: 0 }
}

const fn whole_rows_of(inner: RangeInclusive<u64>) -> Tensors {
    Tensors { whole_rows: true, ..rows_of(inner) }
}

/// For training on software drivers. Rows that share units are walked four channels at a time. Short channels are held in
/// registers; channels that a core has to itself are read again from its caches; long columns are cut, since a tile of theirs
/// leaves gaps in memory. Few short rows of many channels are read faster as rows, if they are whole units.
pub(super) const CPU_TRAINING: &[Rule] = &[
    rule(Strategy::ChannelLoop(QUADS), rows_of(16..=u64::MAX), 4),
    rule(Strategy::ChannelLoop(QUADS), rows_of(0..=15).with_super_rows(FEW), 4),
    rule(Strategy::Resident(ROWS), rows_of(16..=63).with_super_rows(0..=7), 4),
    rule(Strategy::ChannelLoop(ROWS), rows_of(16..=u64::MAX), 4),
    rule(Strategy::ChannelLoop(ROWS), whole_rows_of(4..=15).with_super_rows(0..=512).with_channels(32), 4),
    rule(Strategy::ChannelLoop(COLUMNS), rows_of(0..=15).with_super_rows(0..=1024), 4),
    rule(split(QUADS, QUADS), rows_of(16..=u64::MAX), 0),
    rule(split(QUADS, QUADS), rows_of(0..=15).with_super_rows(FEW), 0),
    rule(split(ROWS, ROWS), rows_of(64..=u64::MAX), 0),
    rule(split(ROWS, ROWS), rows_of(16..=63).with_super_rows(0..=7), 0),
    rule(split(ROWS, ROWS), whole_rows_of(16..=63), 0),
    rule(split(ROWS, COLUMNS), rows_of(16..=63), 0),
    rule(split(COLUMNS, COLUMNS), rows_of(ANY), 0),
];

/// For both backwards on software drivers. They read two tensors, so caches hold half as much of each.
pub(super) const CPU_BACKWARD: &[Rule] = &[
    rule(Strategy::ChannelLoop(QUADS), rows_of(16..=u64::MAX), 4),
    rule(Strategy::ChannelLoop(QUADS), rows_of(0..=15).with_super_rows(FEW), 4),
    rule(Strategy::Resident(ROWS), rows_of(16..=63).with_super_rows(0..=7), 4),
    rule(Strategy::ChannelLoop(ROWS), rows_of(16..=u64::MAX), 4),
    rule(Strategy::ChannelLoop(ROWS), whole_rows_of(4..=15).with_super_rows(0..=512).with_channels(32), 4),
    rule(Strategy::ChannelLoop(COLUMNS), rows_of(0..=15).with_super_rows(0..=512), 4),
    rule(split(QUADS, QUADS), rows_of(16..=u64::MAX), 0),
    rule(split(QUADS, QUADS), rows_of(0..=15).with_super_rows(FEW), 0),
    rule(split(ROWS, ROWS), rows_of(64..=u64::MAX), 0),
    rule(split(ROWS, ROWS), rows_of(16..=63).with_super_rows(0..=7), 0),
    rule(split(ROWS, ROWS), whole_rows_of(16..=63), 0),
    rule(split(ROWS, COLUMNS), rows_of(16..=63), 0),
    rule(split(COLUMNS, COLUMNS), rows_of(ANY), 0),
];

/// For GPUs: one dispatch where channels fit registers, two elsewhere.
pub(super) const GPU: &[Rule] = &[
    rule(Strategy::Resident(ROWS), rows_of(16..=u64::MAX), 32),
    rule(Strategy::Resident(COLUMNS), rows_of(0..=63), 32),
    rule(split(ROWS, ROWS), rows_of(64..=u64::MAX), 0),
    rule(split(ROWS, ROWS), rows_of(16..=63).with_super_rows(0..=7), 0),
    rule(split(ROWS, COLUMNS), rows_of(16..=63), 0),
    rule(split(COLUMNS, COLUMNS), rows_of(ANY), 0),
];

/// Where no rule serves: the runs of columns are wider than a workgroup, or parts share units. It serves every problem.
pub(super) const fn fallback(tensor: Tensor) -> Strategy {
    if tensor.has_columns() { split(ROWS, COLUMNS) } else { split(ROWS, ROWS) }
}

/// Where a family maps.
pub(super) type MapRule = (Tensors, Family);

/// Inference, and the input gradient alone through frozen statistics, on software drivers.
pub(super) const CPU_INFERENCE: &[MapRule] = &[
    (rows_of(64..=u64::MAX), QUADS),
    (rows_of(ANY).with_super_rows(0..=512), QUADS),
    (whole_rows_of(4..=15).with_super_rows(0..=512).with_channels(32), ROWS),
    (whole_rows_of(16..=63), ROWS),
    (rows_of(64..=u64::MAX), ROWS),
    (rows_of(16..=63).with_super_rows(0..=7), ROWS),
    (rows_of(ANY), COLUMNS),
];

/// The same on GPUs.
pub(super) const GPU_INFERENCE: &[MapRule] =
    &[(rows_of(64..=u64::MAX), ROWS), (rows_of(16..=63).with_super_rows(0..=7), ROWS), (rows_of(ANY), COLUMNS)];

pub(super) const fn table(class: AdapterClass, operation: Operation) -> &'static [Rule] {
    match (class, operation) {
        (AdapterClass::Cpu, Operation::Training) => CPU_TRAINING,
        (AdapterClass::Cpu, Operation::Backward | Operation::FrozenBackward) => CPU_BACKWARD,
        (AdapterClass::Discrete | AdapterClass::Integrated, _) => GPU,
    }
}

/// The strategy of the first rule that matches and serves; `among` says which may be taken.
pub(super) fn select(
    operation: Operation,
    tensor: Tensor,
    profile: &DeviceProfile,
    among: impl Fn(Strategy) -> bool,
) -> Option<Choice> {
    let small = tensor.elements() <= SMALL;
    table(profile.class, operation)
        .iter()
        .filter(|rule| among(rule.strategy) && rule.tensors.include(tensor))
        .find_map(|rule| {
            let choice = Choice::new(rule.strategy, operation, tensor, profile)?;
            let enough = choice.geometries().all(|geometry| geometry.groups() >= rule.least_groups);
            (enough || small).then_some(choice)
        })
        .or_else(|| Choice::new(fallback(tensor), operation, tensor, profile))
}

pub(super) fn select_inference(tensor: Tensor, profile: &DeviceProfile) -> Family {
    let table = match profile.class {
        AdapterClass::Cpu => CPU_INFERENCE,
        AdapterClass::Discrete | AdapterClass::Integrated => GPU_INFERENCE,
    };
    table
        .iter()
        .find(|(tensors, family)| tensor.maps(*family) && tensors.include(tensor))
        .map_or(if tensor.has_columns() { COLUMNS } else { ROWS }, |(_, family)| *family)
}

/// For a reduction that no map follows.
pub(super) fn select_reduction(tensor: Tensor, profile: &DeviceProfile) -> Geometry {
    let short = tensor.part().inner < 16;
    let quads = profile.is_cpu() && (!short || FEW.contains(&super_rows(tensor.part())));
    let quads = if quads { Geometry::reduction(tensor, profile, QUADS) } else { None };
    let columns = || if short { Geometry::reduction(tensor, profile, COLUMNS) } else { None };
    quads.or_else(columns).unwrap_or_else(|| Geometry::rows_reduction(tensor, profile))
}

pub(super) fn super_rows(problem: Problem) -> u64 {
    problem.outer / repeats(problem)
}
