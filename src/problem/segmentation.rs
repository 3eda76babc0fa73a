//! Which elements share statistics, where it is not the whole batch.

use super::{Layout, Problem, Shape};
use crate::Error;

/// What a shape is cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Segments {
    /// Nothing: the whole batch shares its statistics.
    #[default]
    Batch,
    /// Equal parts along the first dimension.
    SubBatches(usize),
    /// Every index of a dimension.
    Along(usize),
}

/// How a batch falls into *instances*: channels of segments, each with a mean and a variance of its own.
///
/// Without segments an instance is a channel. Otherwise instances stand in the order in which segment and channel stand in
/// the tensor: segment by segment, `s·C + c`, but where the segments are steps right after the channels, as in (N,C,T),
/// channel by channel, `c·S + s`.
///
/// ```
/// use wgpu_batch_norm::{Layout, Shape};
/// let ghost = Shape::new(&[32, 64, 7, 7])?.with_sub_batches(4)?.segmentation(Layout::ChannelsFirst)?;
/// assert_eq!((ghost.segments(), ghost.instances(), ghost.count()), (4, 256, 8 * 7 * 7));
/// assert_eq!(ghost.instance(3, 5), 3 * 64 + 5);
/// let steps = Shape::new(&[32, 64, 10])?.with_segments_along(2)?.segmentation(Layout::ChannelsFirst)?;
/// assert_eq!((steps.segments(), steps.instances(), steps.count()), (10, 640, 32));
/// assert_eq!(steps.instance(3, 5), 5 * 10 + 3);
/// # Ok::<(), wgpu_batch_norm::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segmentation {
    /// Equal parts of the tensor, one after the other.
    pub(crate) parts: u64,
    /// One of them, with an instance for each of its channels.
    pub(crate) part: Problem,
    /// Channels with a gamma and a beta.
    pub(crate) channels: u32,
    /// Consecutive instances of one channel.
    pub(crate) steps: u32,
}

impl Segmentation {
    /// The segments S; 1 if the whole batch shares its statistics.
    #[must_use]
    pub const fn segments(&self) -> u64 {
        self.instances() / self.channels as u64
    }

    /// The instances, `S·C`.
    #[must_use]
    pub const fn instances(&self) -> u64 {
        self.parts * self.part.channels as u64
    }

    /// Elements of an instance.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.part.count()
    }

    /// The index of a channel's instance in a segment: where its statistics stand.
    #[must_use]
    pub const fn instance(&self, segment: u64, channel: u32) -> u64 {
        if self.steps == 1 {
            segment * self.channels as u64 + channel as u64
        } else {
            channel as u64 * self.steps as u64 + segment
        }
    }

    /// The channel of an instance: where its gamma and beta stand.
    #[must_use]
    pub const fn channel_of(&self, instance: u64) -> u32 {
        (instance / self.steps as u64 % self.channels as u64) as u32
    }

    /// The segment of an instance.
    #[must_use]
    pub const fn segment_of(&self, instance: u64) -> u64 {
        if self.steps == 1 { instance / self.channels as u64 } else { instance % self.steps as u64 }
    }

    /// The instance of an element.
    #[must_use]
    pub const fn instance_of(&self, element: u64) -> u64 {
        // Of an empty batch no element exists, and none is asked for but by mistake.
        let elements = if self.part.elements() == 0 { 1 } else { self.part.elements() };
        let inner = if self.part.inner == 0 { 1 } else { self.part.inner };
        let (part, within) = (element / elements, element % elements);
        part * self.part.channels as u64 + within / inner % self.part.channels as u64
    }

    /// The index of an instance's first element.
    pub(crate) const fn first_element(&self, instance: u64) -> u64 {
        let channels = self.part.channels as u64;
        instance / channels * self.part.elements() + instance % channels * self.part.inner
    }

    /// A whole batch that shares its statistics.
    pub(crate) const fn whole(problem: Problem) -> Self {
        Self { parts: 1, part: problem, channels: problem.channels, steps: 1 }
    }

    fn sub_batches(problem: Problem, parts: u64) -> Self {
        let outer = problem.outer / parts;
        let instances = parts.checked_mul(u64::from(problem.channels)).and_then(|count| u32::try_from(count).ok());
        match instances.filter(|_| outer == 1) {
            // Every outer step for itself: its channels are instances as they stand.
            Some(channels) => Self { parts: 1, part: Problem { outer, channels, ..problem }, ..Self::whole(problem) },
            None => Self { parts, part: Problem { outer, ..problem }, ..Self::whole(problem) },
        }
    }
}

/// # Segments
impl Shape {
    /// Cuts the batch into this many equal sub-batches, with statistics of their own. It is how many there are, not how large they
    /// are: a ghost or virtual batch size of m is `with_sub_batches(samples / m)`.
    ///
    /// ```
    /// # use wgpu_batch_norm::{Layout, Shape};
    /// // 32 samples in 4 sub-batches of 8: the samples 0 to 7, 8 to 15, …
    /// let shape = Shape::new(&[32, 64])?.with_sub_batches(4)?;
    /// let segmentation = shape.segmentation(Layout::ChannelsLast)?;
    /// assert_eq!((segmentation.segments(), segmentation.count()), (4, 8));
    /// # Ok::<(), wgpu_batch_norm::Error>(())
    /// ```
    ///
    /// That is ghost batch norm (Hoffer, Hubara and Soudry, arXiv 1705.08741). As many as there are samples make instance norm.
    /// Sub-batches of one domain each, with [`SegmentRunning::Separate`](crate::SegmentRunning::Separate), make domain-specific
    /// batch norm; where the whole batch is of one domain, bind the running statistics of that domain instead.
    ///
    /// Gamma and beta are shared; what becomes of the running statistics is the convention's
    /// [`segment_running`](crate::Convention::segment_running). A shape is cut in one way only, the last that was said.
    ///
    /// # Errors
    /// [`Error::UnevenSegments`] where the first dimension is no multiple of `sub_batches`.
    #[doc(alias = "ghost_batch_size")]
    #[doc(alias = "virtual_batch_size")]
    pub fn with_sub_batches(mut self, sub_batches: usize) -> Result<Self, Error> {
        let length = self.dimensions()[0];
        if sub_batches == 0 || !length.is_multiple_of(sub_batches) {
            return Err(Error::UnevenSegments { length, segments: sub_batches });
        }
        self.segments = Segments::SubBatches(sub_batches);
        Ok(self)
    }

    /// Gives every index along a dimension statistics of its own, for example every time step of a recurrent layer.
    ///
    /// The dimension must be the first one or stand beside the channels (dimensions of length 1 between do not count): 1 in
    /// (N,T,C), 2 in (N,C,T), 0 in (T,N,C) (Cooijmans et al., arXiv 1603.09025, section 3). Gamma and beta are shared; what becomes of the running statistics is the
    /// convention's [`segment_running`](crate::Convention::segment_running), by custom
    /// [`Separate`](crate::SegmentRunning::Separate) for time steps.
    ///
    /// # Errors
    /// [`Error::InvalidAxis`] where there is no such dimension. Whether the dimension can be served depends on the layout, and
    /// is found when the shape is planned: [`Error::SegmentsNotServed`].
    pub fn with_segments_along(mut self, axis: usize) -> Result<Self, Error> {
        let rank = self.dimensions().len();
        if axis >= rank {
            return Err(Error::InvalidAxis { axis, rank });
        }
        self.segments = Segments::Along(axis);
        Ok(self)
    }

    /// How the shape falls into instances under `layout`.
    ///
    /// # Errors
    /// As [`Shape::problem`], also for more than 2^32 − 1 instances; [`Error::NoChannels`], [`Error::SegmentsNotServed`].
    pub fn segmentation(&self, layout: Layout) -> Result<Segmentation, Error> {
        let segmentation = self.cut(layout)?;
        let instances = segmentation.parts.checked_mul(u64::from(segmentation.part.channels));
        match instances.map(u32::try_from) {
            Some(Ok(_)) => Ok(segmentation),
            _ => Err(Error::ShapeTooLarge { shape: self.dimensions().to_vec() }),
        }
    }

    fn cut(&self, layout: Layout) -> Result<Segmentation, Error> {
        let problem = self.problem(layout)?;
        if problem.channels == 0 {
            return Err(Error::NoChannels);
        }
        let dims = self.dimensions();
        let (channel_axis, axis) = match self.segments {
            Segments::Batch => return Ok(Segmentation::whole(problem)),
            Segments::SubBatches(count) => return Ok(Segmentation::sub_batches(problem, count as u64)),
            Segments::Along(axis) => (self.channel_axis(layout), axis),
        };
        // Without an index there is no segment, but one that is empty.
        let length = dims[axis].max(1);
        let apart = |from: usize, to: usize| dims[from..to].iter().all(|&dim| dim == 1);
        let not_served = Error::SegmentsNotServed { axis };
        let too_large = || Error::ShapeTooLarge { shape: dims.to_vec() };
        let channels = || {
            let channels = (length as u64).checked_mul(u64::from(problem.channels));
            channels.and_then(|count| u32::try_from(count).ok()).ok_or_else(too_large)
        };
        let steps = u32::try_from(length).map_err(|_| too_large())?;
        if axis == channel_axis {
            return Err(not_served);
        }
        if axis > channel_axis {
            if !apart(channel_axis + 1, axis) {
                return Err(not_served);
            }
            let part = Problem { channels: channels()?, inner: problem.inner / u64::from(steps), ..problem };
            return Ok(Segmentation { part, steps, ..Segmentation::whole(problem) });
        }
        if apart(0, axis) {
            return Ok(Segmentation::sub_batches(problem, length as u64));
        }
        if !apart(axis + 1, channel_axis) {
            return Err(not_served);
        }
        let part = Problem { channels: channels()?, outer: problem.outer / u64::from(steps), ..problem };
        Ok(Segmentation { part, ..Segmentation::whole(problem) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element of the tensor has the instance that its indices say, in the order that is documented.
    #[test]
    fn every_element_has_the_instance_of_its_segment_and_channel() {
        type Row<'a> = (&'a [usize], Layout, Segments, fn(&[usize]) -> usize);
        let rows: [Row<'_>; 9] = [
            (&[6, 3, 5], Layout::ChannelsFirst, Segments::Batch, |_| 0),
            (&[6, 3, 5], Layout::ChannelsFirst, Segments::SubBatches(2), |at| at[0] / 3),
            (&[6, 5, 3], Layout::ChannelsLast, Segments::SubBatches(3), |at| at[0] / 2),
            (&[6, 3, 5], Layout::ChannelsFirst, Segments::SubBatches(6), |at| at[0]),
            (&[4, 2, 3], Layout::ChannelsLast, Segments::Along(0), |at| at[0]),
            (&[4, 5, 3], Layout::ChannelsLast, Segments::Along(1), |at| at[1]),
            (&[4, 3, 5], Layout::ChannelsFirst, Segments::Along(2), |at| at[2]),
            (&[4, 3, 5, 2], Layout::ChannelsFirst, Segments::Along(2), |at| at[2]),
            (&[4, 2, 5, 3], Layout::ChannelsLast, Segments::Along(2), |at| at[2]),
        ];
        for (dims, layout, segments, segment_of) in rows {
            let mut shape = Shape::new(dims).unwrap();
            shape.segments = segments;
            let segmentation = shape.segmentation(layout).unwrap();
            let mut seen = vec![0; segmentation.instances() as usize];
            let elements: usize = dims.iter().product();
            for element in 0..elements {
                let mut rest = element;
                let mut at = vec![0; dims.len()];
                for (axis, dim) in dims.iter().enumerate().rev() {
                    at[axis] = rest % dim;
                    rest /= dim;
                }
                let (segment, channel) = (segment_of(&at), at[layout.channel_axis(dims.len())]);
                let instance = segmentation.instance(segment as u64, channel as u32);
                assert_eq!(segmentation.segment_of(instance), segment as u64, "{dims:?} {segments:?}");
                assert_eq!(segmentation.channel_of(instance), channel as u32, "{dims:?} {segments:?}");
                assert_eq!(segmentation.instance_of(element as u64), instance, "{dims:?} {segments:?} {at:?}");
                seen[instance as usize] += 1;
            }
            assert!(seen.iter().all(|&count| count == segmentation.count()), "{dims:?} {segments:?}: {seen:?}");
        }
    }

    #[test]
    fn segments_that_do_not_come_out_or_are_not_served_are_errors() {
        let shape = || Shape::new(&[6, 3, 5, 2]).unwrap();
        assert_eq!(shape().with_sub_batches(4), Err(Error::UnevenSegments { length: 6, segments: 4 }));
        assert_eq!(shape().with_sub_batches(0), Err(Error::UnevenSegments { length: 6, segments: 0 }));
        assert_eq!(shape().with_segments_along(4), Err(Error::InvalidAxis { axis: 4, rank: 4 }));
        for (axis, layout) in [(1, Layout::ChannelsFirst), (3, Layout::ChannelsFirst), (1, Layout::ChannelsLast)] {
            let segmentation = shape().with_segments_along(axis).unwrap().segmentation(layout);
            assert_eq!(segmentation, Err(Error::SegmentsNotServed { axis }), "{layout:?}");
        }
    }

    #[test]
    fn an_empty_dimension_is_one_empty_segment() {
        let empty = Shape::new(&[2, 3, 0]).unwrap().segmentation(Layout::ChannelsFirst).unwrap();
        assert!(empty.instance_of(7) < 3 * 8, "no panic");
        let channelless = Shape::new(&[2, 0, 3]).unwrap().segmentation(Layout::ChannelsFirst);
        assert_eq!(channelless, Err(Error::NoChannels));
        let astronomic = Shape::flat(usize::MAX, 3, 0).with_sub_batches(usize::MAX).unwrap();
        assert!(matches!(astronomic.segmentation(Layout::ChannelsFirst), Err(Error::ShapeTooLarge { .. })));
        for shape in [[0, 3, 5], [4, 3, 0]] {
            let axis = usize::from(shape[0] != 0) * 2;
            let shape = Shape::new(&shape).unwrap().with_segments_along(axis).unwrap();
            let segmentation = shape.segmentation(Layout::ChannelsFirst).unwrap();
            assert_eq!((segmentation.segments(), segmentation.count()), (1, 0));
        }
    }
}
