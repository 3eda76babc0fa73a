//! Strategies: the ways to carry an operation out, and which of them serve a problem.

use std::fmt;

use super::geometry::{Geometry, Tensor};
use super::kernel::{Family, Operation, Trips};
use super::profile::DeviceProfile;

/// How an operation that reduces and then maps a tensor is carried out.
///
/// All strategies give the same results up to the order of additions. [`Plan::new`](crate::Plan::new) chooses one by
/// shape and class of machine; [`Plan::with_strategies`](crate::Plan::with_strategies) takes the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Two dispatches: a reduction to partial results by any number of workgroups a channel, and a map whose workgroups
    /// merge them first; where that would cost more than it saves, a dispatch between the two merges them. Reads the tensor
    /// twice. Serves every shape with a reduction of rows.
    Split {
        /// The walk of the reduction.
        reduction: Family,
        /// The walk of the map.
        elementwise: Family,
    },
    /// One dispatch in which a workgroup has its channels to itself and reads them twice, the second time from a cache if
    /// they fit. Needs enough channels to fill the machine.
    ChannelLoop(Family),
    /// One dispatch in which a workgroup holds its channels in registers and reads them once. Needs short channels.
    Resident(Family),
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 15] = [
        Self::Resident(Family::Rows),
        Self::Resident(Family::Columns),
        Self::Resident(Family::Quads),
        Self::ChannelLoop(Family::Rows),
        Self::ChannelLoop(Family::Columns),
        Self::ChannelLoop(Family::Quads),
        Self::Split { reduction: Family::Rows, elementwise: Family::Rows },
        Self::Split { reduction: Family::Rows, elementwise: Family::Columns },
        Self::Split { reduction: Family::Rows, elementwise: Family::Quads },
        Self::Split { reduction: Family::Columns, elementwise: Family::Rows },
        Self::Split { reduction: Family::Columns, elementwise: Family::Columns },
        Self::Split { reduction: Family::Columns, elementwise: Family::Quads },
        Self::Split { reduction: Family::Quads, elementwise: Family::Rows },
        Self::Split { reduction: Family::Quads, elementwise: Family::Columns },
        Self::Split { reduction: Family::Quads, elementwise: Family::Quads },
    ];
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { reduction, elementwise } => write!(f, "split {reduction}/{elementwise}"),
            Self::ChannelLoop(family) => write!(f, "channel loop {family}"),
            Self::Resident(family) => write!(f, "resident {family}"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Columns => "columns",
            Self::Quads => "quads",
        })
    }
}

/// The strategies to use; `None` leaves the choice to the planner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strategies {
    /// For training forward.
    pub training: Option<Strategy>,
    /// For inference and the input gradient alone through frozen statistics, which map and do not reduce.
    pub inference: Option<Family>,
    /// For both backwards; not for the one through frozen statistics where segments share them.
    pub backward: Option<Strategy>,
}

/// A strategy laid out for a problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    Split {
        reduction: Geometry,
        elementwise: Geometry,
        /// The slots are merged by a dispatch of its own.
        merges_apart: bool,
    },
    ChannelLoop(Geometry),
    Resident(Geometry, Trips),
}

impl Choice {
    /// The layout of a strategy; `None` where it does not serve the problem.
    pub(super) fn new(
        strategy: Strategy,
        operation: Operation,
        tensor: Tensor,
        profile: &DeviceProfile,
    ) -> Option<Self> {
        let mapped = match strategy {
            Strategy::Split { elementwise, .. } => elementwise,
            Strategy::ChannelLoop(family) | Strategy::Resident(family) => family,
        };
        if !tensor.maps(mapped) {
            return None;
        }
        match strategy {
            Strategy::Split { reduction, elementwise } => {
                let reduction = Geometry::reduction(tensor, profile, reduction)?;
                let elementwise = Geometry::second(tensor, profile, elementwise);
                let merges_apart = elementwise.merges_apart(reduction.slots);
                Some(Self::Split { reduction, elementwise, merges_apart })
            }
            Strategy::ChannelLoop(family) => {
                Geometry::whole_channels(tensor, profile, family, profile.max_blocks()).map(Self::ChannelLoop)
            }
            Strategy::Resident(family) => {
                // Backward holds two tensors; a processor's caches hold them all the same.
                let many = operation == Operation::Training || profile.is_cpu();
                let most = if many { Trips::Four } else { Trips::Two }.min(Trips::most(family));
                let geometry = Geometry::whole_channels(tensor, profile, family, most.count())?;
                let trips = Trips::ALL.into_iter().find(|trips| trips.count() >= geometry.blocks)?;
                Some(Self::Resident(geometry, trips))
            }
        }
    }

    pub(super) const fn strategy(&self) -> Strategy {
        match self {
            Self::Split { reduction, elementwise, .. } => {
                Strategy::Split { reduction: reduction.family, elementwise: elementwise.family }
            }
            Self::ChannelLoop(geometry) => Strategy::ChannelLoop(geometry.family),
            Self::Resident(geometry, _) => Strategy::Resident(geometry.family),
        }
    }

    /// The geometries that the choice dispatches.
    pub(super) fn geometries(&self) -> impl Iterator<Item = &Geometry> {
        let (first, second) = match self {
            Self::Split { reduction, elementwise, .. } => (reduction, Some(elementwise)),
            Self::ChannelLoop(geometry) | Self::Resident(geometry, _) => (geometry, None),
        };
        [Some(first), second].into_iter().flatten()
    }
}
