//! Sequences of unequal length in one padded tensor.

use super::{Layout, Shape};
use crate::Error;

/// Which dimensions of a padded tensor count sequences and their steps.
///
/// `{ sequence: 0, step: 1 }` in (N,T,C), `{ sequence: 0, step: 2 }` in (N,C,T), `{ sequence: 1, step: 0 }` in (T,N,C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceAxes {
    /// The dimension with an index a sequence; there is one length for each.
    pub sequence: usize,
    /// The dimension with an index a step; steps from a sequence's length on are padding.
    pub step: usize,
}

/// How to find an axis' index in a *position*: positions are the elements of one channel, in the order of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PositionAxis {
    /// Positions from one index to the next.
    pub stride: u64,
    pub length: u64,
}

impl PositionAxis {
    pub(crate) const fn index_of(self, position: u64) -> u64 {
        position / self.stride % self.length
    }
}

impl Shape {
    /// Where two axes stand in positions: sequence, then step.
    ///
    /// # Errors
    /// [`Error::InvalidAxis`] where there is no such dimension, where it holds the channels, or where both are one.
    pub(crate) fn sequence_axes(&self, layout: Layout, axes: SequenceAxes) -> Result<[PositionAxis; 2], Error> {
        let dims = self.dimensions();
        let channel_axis = self.channel_axis(layout);
        let find = |axis: usize| {
            if axis >= dims.len() || axis == channel_axis {
                return Err(Error::InvalidAxis { axis, rank: dims.len() });
            }
            let after = dims.iter().enumerate().skip(axis + 1).filter(|(other, _)| *other != channel_axis);
            // The problem has shown that these products fit; without elements there are no positions.
            let stride = after.map(|(_, &dim)| dim as u64).fold(1, u64::saturating_mul).max(1);
            Ok(PositionAxis { stride, length: (dims[axis] as u64).max(1) })
        };
        if axes.sequence == axes.step {
            return Err(Error::InvalidAxis { axis: axes.step, rank: dims.len() });
        }
        Ok([find(axes.sequence)?, find(axes.step)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_tell_sequence_and_step_in_every_layout() {
        let rows = [
            (vec![4, 5, 3], Layout::ChannelsLast, SequenceAxes { sequence: 0, step: 1 }),
            (vec![4, 3, 5], Layout::ChannelsFirst, SequenceAxes { sequence: 0, step: 2 }),
            (vec![5, 4, 3], Layout::ChannelsLast, SequenceAxes { sequence: 1, step: 0 }),
            (vec![4, 3, 5, 2], Layout::ChannelsFirst, SequenceAxes { sequence: 0, step: 2 }),
        ];
        for (dims, layout, axes) in rows {
            let shape = Shape::new(&dims).unwrap();
            let [sequence, step] = shape.sequence_axes(layout, axes).unwrap();
            let others: Vec<usize> = (0..dims.len()).filter(|&axis| axis != layout.channel_axis(dims.len())).collect();
            let positions: usize = others.iter().map(|&axis| dims[axis]).product();
            for position in 0..positions {
                let mut rest = position;
                let mut at = vec![0; dims.len()];
                for &axis in others.iter().rev() {
                    at[axis] = rest % dims[axis];
                    rest /= dims[axis];
                }
                let found = (sequence.index_of(position as u64), step.index_of(position as u64));
                assert_eq!(found, (at[axes.sequence] as u64, at[axes.step] as u64), "{dims:?} {layout:?}");
            }
        }
    }

    #[test]
    fn axes_that_hold_channels_or_coincide_are_errors() {
        let shape = Shape::new(&[4, 5, 3]).unwrap();
        for (sequence, step) in [(0, 2), (2, 1), (0, 3), (1, 1)] {
            let axes = shape.sequence_axes(Layout::ChannelsLast, SequenceAxes { sequence, step });
            assert!(matches!(axes, Err(Error::InvalidAxis { .. })), "{sequence} {step}");
        }
    }
}
