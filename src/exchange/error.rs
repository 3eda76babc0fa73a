//! What can go wrong between the parts of a batch.

use crate::Error;

/// An error of a program's own, of whatever carries messages.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an exchange did not come about. No buffer has been written then: what comes next must not be submitted, so that no
/// running statistics take a part for the whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// A slice, or a merged count, that the crate refuses.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The buffer of an item cannot be read.
    #[error("the buffer of item {item} lacks `BufferUsages::COPY_SRC`")]
    MissingCopySource {
        /// Its index.
        item: usize,
    },
    /// Nothing to exchange.
    #[error("an exchange needs an item at least")]
    NoItems,
    /// The exchange was recorded before, and what it fetched was not taken.
    #[error("the exchange is under way: finish it, or reset it, before it is recorded again")]
    UnderWay,
    /// The records are not on the host yet, or were never asked for.
    #[error(
        "the records are not on the host: record the exchange, submit, and poll the device until the fetch is ready"
    )]
    NotReady,
    /// The staging buffer could not be mapped. The device is lost, most likely.
    #[error("the records could not be fetched: the staging buffer was not mapped")]
    NotMapped,
    /// Instances of one segment with counts of their own, in records of the program's own kernels.
    #[error(
        "instance {instance} of item {item} counts other elements than its segment's first: one count a segment travels"
    )]
    MixedCounts {
        /// The item's index.
        item: usize,
        /// The instance.
        instance: usize,
    },
    /// What carries the messages has failed.
    #[error("the collective failed: {0}")]
    Collective(#[source] BoxError),
    /// A message, or several, have not the length that they must have.
    #[error("{actual} values are not one or more messages of {expected}")]
    WrongLength {
        /// Values in a message.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// No message came from a rank.
    #[error("no message came from rank {rank}, or one of another version")]
    Missing {
        /// The rank.
        rank: usize,
    },
    /// Messages came from other than all ranks.
    #[error("the collective brought messages of {actual} ranks, there are {expected}")]
    WrongRanks {
        /// Ranks that the collective has.
        expected: usize,
        /// Ranks whose messages came.
        actual: usize,
    },
    /// A rank has given up: its device is lost, say, or its program called [`Exchange::abandon`](super::Exchange::abandon).
    #[error("rank {rank} has given up")]
    GivenUp {
        /// The rank.
        rank: usize,
    },
    /// A rank has another network than rank 0.
    #[error("rank {rank} disagrees with rank 0 on {what}")]
    Disagreement {
        /// The first that does.
        rank: usize,
        /// On what.
        what: &'static str,
    },
    /// A rank is at another exchange, or another step, than rank 0.
    #[error("rank {rank} is at another step of the exchange than rank 0")]
    OutOfStep {
        /// The first that is.
        rank: usize,
    },
}
