//! Shapes and the three numbers that they come down to.

use super::Layout;
use super::segmentation::Segments;
use crate::Error;

/// The shape of a row-major tensor that is normalised over all dimensions but the channel dimension.
///
/// ```
/// use wgpu_batch_norm::{Layout, Shape};
/// let images = Shape::new(&[32, 64, 56, 56])?;
/// let problem = images.problem(Layout::ChannelsFirst)?;
/// assert_eq!((problem.outer, problem.channels, problem.inner), (32, 64, 56 * 56));
/// # Ok::<(), wgpu_batch_norm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    dimensions: Dimensions,
    pub(super) segments: Segments,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Dimensions {
    Tensor(Vec<usize>),
    Flat([usize; 3]),
}

impl Shape {
    /// A tensor of 2 to 5 dimensions; the descriptor's [`Layout`] says which one holds the channels.
    ///
    /// # Errors
    /// [`Error::UnsupportedRank`] for fewer than 2 or more than 5 dimensions.
    pub fn new(dimensions: &[usize]) -> Result<Self, Error> {
        if !(2..=5).contains(&dimensions.len()) {
            return Err(Error::UnsupportedRank { rank: dimensions.len() });
        }
        Ok(Self { dimensions: Dimensions::Tensor(dimensions.to_vec()), segments: Segments::Batch })
    }

    /// A tensor already seen as `outer × channels × inner`, whatever the layout says.
    ///
    /// (N,C,H,W) is `(N, C, H·W)`, (N,H,W,C) is `(N·H·W, C, 1)`.
    ///
    /// What counts as a channel is the caller's choice, as long as all its vectors have a value for each. The paper's
    /// per-activation mode, every element of a sample for itself, is `(N, C·H·W, 1)`; gamma, beta and running statistics then
    /// belong to an activation too. Where they are to be shared, see [`Shape::with_sub_batches`] and
    /// [`Shape::with_segments_along`].
    #[must_use]
    pub const fn flat(outer: usize, channels: usize, inner: usize) -> Self {
        Self { dimensions: Dimensions::Flat([outer, channels, inner]), segments: Segments::Batch }
    }

    /// The shape as `outer × channels × inner` under `layout`.
    ///
    /// # Errors
    /// [`Error::ShapeTooLarge`] when the element count does not fit 63 bits or the channel count 32 bits.
    pub fn problem(&self, layout: Layout) -> Result<Problem, Error> {
        let (outer, channels, inner) = match &self.dimensions {
            Dimensions::Flat([outer, channels, inner]) => (Some(*outer as u64), *channels, Some(*inner as u64)),
            Dimensions::Tensor(dims) => {
                let axis = layout.channel_axis(dims.len());
                (product(&dims[..axis]), dims[axis], product(&dims[axis + 1..]))
            }
        };
        let too_large = || Error::ShapeTooLarge { shape: self.dimensions().to_vec() };
        let (outer, inner) = (outer.ok_or_else(too_large)?, inner.ok_or_else(too_large)?);
        let channels = u32::try_from(channels).map_err(|_| too_large())?;
        let count = outer.checked_mul(inner).ok_or_else(too_large)?;
        match count.checked_mul(u64::from(channels)) {
            Some(elements) if i64::try_from(elements).is_ok() => Ok(Problem { outer, channels, inner }),
            _ => Err(too_large()),
        }
    }

    /// The index of the channel dimension in [`Shape::dimensions`].
    pub(super) fn channel_axis(&self, layout: Layout) -> usize {
        match &self.dimensions {
            Dimensions::Tensor(dims) => layout.channel_axis(dims.len()),
            Dimensions::Flat(_) => 1,
        }
    }

    /// The dimensions as given; `[outer, channels, inner]` for a flat shape.
    #[must_use]
    pub fn dimensions(&self) -> &[usize] {
        match &self.dimensions {
            Dimensions::Tensor(dims) => dims,
            Dimensions::Flat(dims) => dims,
        }
    }
}

/// `None` on overflow; a zero anywhere makes the product zero even if a prefix would overflow.
fn product(dims: &[usize]) -> Option<u64> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim as u64))
}

/// A tensor seen as `outer × channels × inner`, row-major: element `(o, c, i)` is at index `(o·channels + c)·inner + i`.
///
/// Statistics are taken over `outer` and `inner`, one set a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The product of the dimensions before the channels.
    pub outer: u64,
    /// The channel count C.
    pub channels: u32,
    /// The product of the dimensions after the channels.
    pub inner: u64,
}

impl Problem {
    /// The reduction length `M = outer · inner`: elements per channel.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.outer * self.inner
    }

    /// All elements of the tensor, `M · C`.
    #[must_use]
    pub const fn elements(&self) -> u64 {
        self.count() * self.channels as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_and_layout_comes_down_to_outer_channels_inner() {
        type Row<'a> = (&'a [usize], Layout, (u64, u32, u64));
        let cases: [Row<'_>; 9] = [
            (&[8, 3], Layout::ChannelsFirst, (8, 3, 1)),
            (&[8, 3], Layout::ChannelsLast, (8, 3, 1)),
            (&[8, 3, 5], Layout::ChannelsFirst, (8, 3, 5)),
            (&[8, 5, 3], Layout::ChannelsLast, (40, 3, 1)),
            (&[8, 3, 5, 7], Layout::ChannelsFirst, (8, 3, 35)),
            (&[8, 5, 7, 3], Layout::ChannelsLast, (280, 3, 1)),
            (&[2, 3, 4, 5, 6], Layout::ChannelsFirst, (2, 3, 120)),
            (&[2, 4, 5, 6, 3], Layout::ChannelsLast, (240, 3, 1)),
            (&[0, 3, 5, 7], Layout::ChannelsFirst, (0, 3, 35)),
        ];
        for (dims, layout, expected) in cases {
            let problem = Shape::new(dims).unwrap().problem(layout).unwrap();
            assert_eq!((problem.outer, problem.channels, problem.inner), expected, "{dims:?} {layout:?}");
        }
    }

    #[test]
    fn ranks_outside_two_to_five_and_overflowing_products_are_errors() {
        assert_eq!(Shape::new(&[4]), Err(Error::UnsupportedRank { rank: 1 }));
        assert_eq!(Shape::new(&[1; 6]), Err(Error::UnsupportedRank { rank: 6 }));
        let huge = Shape::new(&[usize::MAX, 3, usize::MAX]).unwrap();
        assert!(matches!(huge.problem(Layout::ChannelsFirst), Err(Error::ShapeTooLarge { .. })));
        let channels = Shape::flat(1, usize::MAX, 1);
        assert!(matches!(channels.problem(Layout::ChannelsFirst), Err(Error::ShapeTooLarge { .. })));
        let empty = Shape::new(&[0, 3, usize::MAX, usize::MAX]).unwrap();
        assert!(matches!(empty.problem(Layout::ChannelsFirst), Err(Error::ShapeTooLarge { .. })));
    }
}
