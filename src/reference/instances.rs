//! The elements of instances, and which of them are there.

use super::check_optional;
use crate::{Error, Problem, Segmentation};

/// A tensor's elements by instances, with padding told apart.
#[derive(Clone, Copy)]
pub(super) struct Instances<'a> {
    problem: Problem,
    segmentation: Segmentation,
    valid: Option<&'a [bool]>,
}

impl<'a> Instances<'a> {
    /// Checks that there is a flag for each position, if there are any.
    pub(super) fn new(problem: Problem, segmentation: Segmentation, valid: Option<&'a [bool]>) -> Result<Self, Error> {
        check_optional("valid", valid, problem.count())?;
        Ok(Self { problem, segmentation, valid })
    }

    pub(super) fn len(self) -> usize {
        self.segmentation.instances() as usize
    }

    pub(super) fn channel_of(self, instance: usize) -> usize {
        self.segmentation.channel_of(instance as u64) as usize
    }

    /// A channel's instances, segment by segment.
    pub(super) fn of_channel(self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.segmentation.segments())
            .map(move |segment| self.segmentation.instance(segment, channel as u32) as usize)
    }

    /// The flat indices of an instance's elements, padding included, in memory order.
    pub(super) fn elements(self, instance: usize) -> impl Iterator<Item = usize> + Clone {
        let part = self.segmentation.part;
        let (step, inner) = (part.channels as usize * part.inner as usize, part.inner as usize);
        // An empty row may be one of astronomically many.
        let rows = if inner == 0 { 0 } else { part.outer as usize };
        let first = self.segmentation.first_element(instance as u64) as usize;
        (0..rows).flat_map(move |row| first + row * step..first + row * step + inner)
    }

    /// The flat indices of an instance's valid elements, in memory order.
    pub(super) fn valid(self, instance: usize) -> impl Iterator<Item = usize> + Clone {
        self.elements(instance).filter(move |&index| self.is_valid(index))
    }

    /// W, the valid elements of an instance.
    pub(super) fn count(self, instance: usize) -> u64 {
        match self.valid {
            Some(_) => self.valid(instance).count() as u64,
            None => self.segmentation.count(),
        }
    }

    /// Whether the element at a flat index is no padding.
    pub(super) fn is_valid(self, index: usize) -> bool {
        let (channels, inner) = (self.problem.channels as usize, self.problem.inner as usize);
        self.valid.is_none_or(|valid| valid[index / (channels * inner) * inner + index % inner])
    }
}
