//! What ranks tell each other of the call that they make.

use std::fmt;

use super::MpiError;

/// A call, and what all ranks must give it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Ranks in a group.
    Group(usize),
    /// Values that a rank gathers.
    Gather(usize),
    /// Values in a message.
    Exchange(usize),
    /// Values that are summed.
    Sum(usize),
}

/// Values of an encoded call.
const ENCODED: usize = 4;

impl Call {
    /// In whole numbers that an `f32` holds: three times 16 bits of the count, whose rest would be more than a memory holds.
    pub(super) fn encode(self) -> [f32; ENCODED] {
        let (kind, count) = match self {
            Self::Group(count) => (1, count),
            Self::Gather(count) => (2, count),
            Self::Exchange(count) => (3, count),
            Self::Sum(count) => (4, count),
        };
        [kind, (count as u64 >> 32) as u16, (count as u64 >> 16) as u16, count as u16].map(f32::from)
    }

    fn decode(values: &[f32]) -> Option<Self> {
        let &[kind, high, middle, low] = values else { return None };
        let count = ((high as u64) << 32 | (middle as u64) << 16 | low as u64) as usize;
        match kind as u8 {
            1 => Some(Self::Group(count)),
            2 => Some(Self::Gather(count)),
            3 => Some(Self::Exchange(count)),
            4 => Some(Self::Sum(count)),
            _ => None,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(count) => write!(f, "has groups of {count}"),
            Self::Gather(count) => write!(f, "gathers {count} values"),
            Self::Exchange(count) => write!(f, "exchanges messages of {count} values"),
            Self::Sum(count) => write!(f, "sums {count} values"),
        }
    }
}

/// Finds the first rank whose call is not rank 0's; `all` are the encoded calls of all ranks.
pub(super) fn compare(all: &[f32]) -> Result<(), MpiError> {
    let words =
        |values: &[f32]| Call::decode(values).map_or_else(|| "makes no call".to_owned(), |call| call.to_string());
    let first = &all[..ENCODED.min(all.len())];
    match all.chunks(ENCODED).position(|call| call != first) {
        None => Ok(()),
        Some(rank) => {
            Err(MpiError::DifferentCalls { rank, call: words(&all[rank * ENCODED..][..ENCODED]), first: words(first) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_that_differs_is_named_with_both_calls() {
        let calls = |calls: &[Call]| calls.iter().flat_map(|call| call.encode()).collect::<Vec<_>>();
        let large = Call::Exchange(3_000_000_001);
        assert_eq!(compare(&calls(&[large; 3])), Ok(()));
        let error = compare(&calls(&[large, large, Call::Sum(5)])).unwrap_err();
        assert_eq!(error.to_string(), "rank 2 sums 5 values, while rank 0 exchanges messages of 3000000001 values");
        let error = compare(&calls(&[Call::Gather(70_000), Call::Gather(4_464)])).unwrap_err();
        assert_eq!(error.to_string(), "rank 1 gathers 4464 values, while rank 0 gathers 70000 values");
    }
}
