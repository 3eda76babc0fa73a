//! Messages carried by MPI.

mod call;
mod communicator;

use std::fmt;
use std::time::Duration;

use mpi::topology::SimpleCommunicator;

use super::collective::{Collective, share};
use super::error::BoxError;
use super::message::MessageLayout;
use call::Call;
use communicator::{Communicator, Deadline};

/// Why MPI carried no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// Not all ranks came in time. One of them has died, or is slower than the time given.
    #[error("not all ranks came within {timeout:?}: one has died, or needs longer")]
    Timeout {
        /// What was waited.
        timeout: Duration,
    },
    /// Ranks make different calls at the same time: in other orders, or with messages of other lengths.
    #[error("rank {rank} {call}, while rank 0 {first}")]
    DifferentCalls {
        /// The first that makes another call than rank 0.
        rank: usize,
        /// What it does, in words.
        call: String,
        /// What rank 0 does.
        first: String,
    },
    /// After a failure nothing more can be exchanged with this communicator.
    #[error("an earlier exchange failed, and the communicator is of no use any more")]
    Broken,
    /// MPI refused.
    #[error("MPI: {message}")]
    Refused {
        /// MPI's own message.
        message: String,
    },
    /// Groups that the ranks do not fall into.
    #[error("{ranks} ranks do not fall into groups of {group}")]
    UnevenGroups {
        /// Ranks of the communicator.
        ranks: usize,
        /// The group's size that was asked for.
        group: usize,
    },
    /// More values than MPI counts.
    #[error("{values} values of a rank are more than MPI counts")]
    TooLong {
        /// Values in a message.
        values: usize,
    },
    /// Called from another thread than the one that initialised MPI, without `Threading::Multiple`.
    #[error("MPI was not initialised for calls from this thread (`Threading::Multiple`)")]
    WrongThread,
    /// MPI was finalised: its universe has been dropped.
    #[error("MPI has been finalised")]
    Finalized,
}

/// Ranks that gather among themselves: neighbours, and then those at the same place of every group.
struct Groups {
    within: Communicator,
    across: Communicator,
}

/// Ranks from which on messages are merged in groups.
const RANKS_IN_GROUPS: usize = 32;

/// The largest divisor up to the root, in which groups and their number are nearest to each other. 1 for a prime.
fn group_size(ranks: usize) -> usize {
    (1..=ranks.isqrt()).rev().find(|size| ranks.is_multiple_of(*size)).unwrap_or(1)
}

/// The ranks of an MPI communicator as a [`Collective`].
///
/// ```no_run
/// use std::time::Duration;
/// use wgpu_batch_norm::exchange::MpiCollective;
/// use wgpu_batch_norm::mpi;
/// let universe = mpi::initialize().expect("MPI is initialised once");
/// let mut ranks = MpiCollective::new(&universe.world(), Duration::from_secs(60))?;
/// # Ok::<(), wgpu_batch_norm::exchange::MpiError>(())
/// ```
///
/// From 32 ranks on, they are merged in groups of neighbours first and then over the groups, so that a rank receives some `2·√k` messages
/// in place of k; see [`MpiCollective::with_groups`].
///
/// Messages are gathered (`MPI_Iallgather`) on a duplicate of the communicator, so that they meet no others. Before every call
/// ranks tell each other which one they make, and with how many values: where they disagree, all get
/// [`MpiError::DifferentCalls`], and can go on; see [`MpiCollective::without_comparison`]. Waiting pauses up to a millisecond
/// between looks, and ends at the deadline with [`MpiError::Timeout`]. After that, and after any other error, the communicator is
/// given up. Where `mpirun` ends the whole job when one rank dies, as it does unless told otherwise, the survivors do not get
/// that far.
///
/// It may go to another thread where MPI was initialised with `Threading::Multiple`; elsewhere calls from there are refused.
///
/// A program that ends after an error should not drop its universe, but call `std::process::exit` or MPI's abort: `MPI_Finalize`
/// waits for all ranks, and some may be gone.
pub struct MpiCollective {
    all: Communicator,
    groups: Option<Groups>,
    timeout: Duration,
    compares: bool,
    broken: bool,
}

impl fmt::Debug for MpiCollective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiCollective")
            .field("rank", &self.all.rank())
            .field("ranks", &self.all.ranks())
            .field("timeout", &self.timeout)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl MpiCollective {
    /// Called by all ranks of the communicator. MPI's own calls that make duplicates know no deadline.
    ///
    /// # Errors
    /// [`MpiError`].
    pub fn new(communicator: &SimpleCommunicator, timeout: Duration) -> Result<Self, MpiError> {
        Self::ungrouped(communicator, timeout)?.grouped(communicator, None)
    }

    /// The same with groups of so many neighbours, 1 for none: a machine's ranks, say. Called by all ranks, with the same size.
    ///
    /// Merging in groups rounds once more, about 2^-24 of M2 and of gradient sums. All ranks get the same bits either way.
    ///
    /// # Errors
    /// [`MpiError::UnevenGroups`], [`MpiError::DifferentCalls`] where ranks ask for different sizes, and the other ones of
    /// [`MpiError`].
    pub fn with_groups(communicator: &SimpleCommunicator, timeout: Duration, group: usize) -> Result<Self, MpiError> {
        Self::ungrouped(communicator, timeout)?.grouped(communicator, Some(group))
    }

    fn ungrouped(communicator: &SimpleCommunicator, timeout: Duration) -> Result<Self, MpiError> {
        let all = Communicator::duplicate(communicator)?;
        Ok(Self { all, groups: None, timeout, compares: true, broken: false })
    }

    fn grouped(mut self, communicator: &SimpleCommunicator, asked: Option<usize>) -> Result<Self, MpiError> {
        let (rank, ranks) = (self.all.rank(), self.all.ranks());
        let chosen = if ranks < RANKS_IN_GROUPS { 1 } else { group_size(ranks) };
        let group = asked.unwrap_or(chosen);
        // Before communicators are split, which waits for all ranks without an end.
        self.run(Call::Group(group), |_, _| Ok::<_, MpiError>(()))?;
        if group == 0 || !ranks.is_multiple_of(group) {
            return Err(MpiError::UnevenGroups { ranks, group });
        }
        if group > 1 {
            let within = Communicator::split(communicator, rank / group)?;
            let across = Communicator::split(communicator, rank % group)?;
            self.groups = within.zip(across).map(|(within, across)| Groups { within, across });
        }
        Ok(self)
    }

    /// Leaves out the comparison of calls, which is a gather of four values before each: a network's latency once more. The same on
    /// all ranks.
    ///
    /// Ranks that make different calls are then MPI's business, which may hang in a call that no deadline ends. Exchanges of equal
    /// length that are crossed are found out all the same.
    #[must_use]
    pub fn without_comparison(self) -> Self {
        Self { compares: false, ..self }
    }

    /// Sums `values` over all ranks, in place: for gradients of what is not batch norm. All ranks get the same bits.
    ///
    /// # Errors
    /// [`MpiError`].
    pub fn all_sum(&mut self, values: &mut [f32]) -> Result<(), MpiError> {
        let call = Call::Sum(values.len());
        let sums = self.run(call, |ranks, deadline| ranks.all.sum(values)?.wait(deadline))?;
        values.copy_from_slice(&sums);
        Ok(())
    }

    /// Carries out a call that all ranks make.
    fn run<T, E: From<MpiError>>(
        &mut self,
        call: Call,
        task: impl FnOnce(&Self, Deadline) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.broken {
            return Err(MpiError::Broken.into());
        }
        let deadline = Deadline::after(self.timeout);
        // Whatever fails may leave something under way.
        self.broken = true;
        if self.compares {
            let calls = self.all.gather(&call.encode())?.wait(deadline)?;
            if let Err(error) = call::compare(&calls) {
                // All ranks find this, and none has started anything.
                self.broken = false;
                return Err(error.into());
            }
        }
        let result = task(self, deadline)?;
        self.broken = false;
        Ok(result)
    }
}

impl Collective for MpiCollective {
    fn rank(&self) -> usize {
        self.all.rank()
    }

    fn ranks(&self) -> usize {
        self.all.ranks()
    }

    fn all_gather(&mut self, messages: &mut [f32]) -> Result<(), BoxError> {
        let length = share(messages, self.ranks())?;
        let own = &messages[self.rank() * length..][..length];
        let all = self.run(Call::Gather(length), |ranks, deadline| ranks.all.gather(own)?.wait(deadline))?;
        messages.copy_from_slice(&all);
        Ok(())
    }

    fn exchange(&mut self, layout: &MessageLayout, messages: &mut Vec<f32>) -> Result<(), BoxError> {
        let call = Call::Exchange(layout.length());
        messages.resize(layout.length(), 0.0);
        *messages = self.run(call, |ranks, deadline| -> Result<_, BoxError> {
            let Some(groups) = &ranks.groups else {
                return Ok(ranks.all.gather(messages)?.wait(deadline)?);
            };
            let gathered = groups.within.gather(messages)?.wait(deadline)?;
            let mut merged = vec![0.0; layout.length()];
            layout.merge(&gathered, &mut merged)?;
            Ok(groups.across.gather(&merged)?.wait(deadline)?)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_as_many_as_they_are_large_where_that_is_possible() {
        let found: Vec<_> = [1, 32, 37, 64, 96, 1000, 1024].map(group_size).into();
        assert_eq!(found, [1, 4, 1, 8, 8, 25, 32]);
    }

    #[test]
    fn a_collective_may_go_to_another_thread() {
        const fn sendable<T: Send>() {}
        sendable::<MpiCollective>();
    }
}
