//! Messages carried by MPI, through non-blocking collectives that are tested until a deadline.
//!
//! The calls are MPI's own rather than those of the `mpi` crate, which drops return codes and panics where a request is given up. All
//! `unsafe` code of the exchange is here.
#![allow(unsafe_code, reason = "MPI's functions take pointers; see the notes on soundness")]

use std::ffi::c_int;
use std::fmt;
use std::mem::MaybeUninit;
use std::thread;
use std::time::{Duration, Instant};

use mpi::ffi;
use mpi::topology::{Color, Communicator, SimpleCommunicator};
use mpi::traits::AsRaw;

use super::collective::Collective;
use super::error::BoxError;
use super::message::MessageLayout;

/// Tests of a request without a pause: what comes within microseconds is not kept waiting.
const EAGER_TESTS: u32 = 200;
/// The longest pause between two tests.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// Why MPI carried no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// Not all ranks came in time. One of them has died, or is slower than the time given.
    #[error("not all {ranks} ranks came within {timeout:?}: one has died, or needs longer")]
    Timeout {
        /// Ranks of the communicator.
        ranks: usize,
        /// What was waited.
        timeout: Duration,
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
}

/// Ranks that gather among themselves: neighbours, and then those at the same place of every group.
struct Groups {
    within: SimpleCommunicator,
    across: SimpleCommunicator,
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
/// let mut ranks = MpiCollective::new(&universe.world(), Duration::from_secs(60));
/// ```
///
/// From 32 ranks on, they are merged in groups of neighbours first and then over the groups, so that a rank receives some `2·√k` messages
/// in place of k; see [`MpiCollective::with_groups`].
///
/// Messages are gathered (`MPI_Iallgather`) on a duplicate of the communicator, so that they meet no others. Waiting pauses up to a
/// millisecond between looks, and ends at the deadline with [`MpiError::Timeout`]. After any error the communicator is given up. Where
/// `mpirun` ends the whole job when one rank dies, as it does unless told otherwise, the survivors do not get that far.
///
/// MPI must have been initialised for the threads that use this: from several, with `Threading::Serialized` at least.
pub struct MpiCollective {
    communicator: SimpleCommunicator,
    groups: Option<Groups>,
    timeout: Duration,
    broken: bool,
    gathered: Vec<f32>,
}

impl fmt::Debug for MpiCollective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiCollective")
            .field("timeout", &self.timeout)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl MpiCollective {
    /// Called by all ranks of the communicator.
    #[must_use]
    pub fn new(communicator: &SimpleCommunicator, timeout: Duration) -> Self {
        let ranks = communicator.size().unsigned_abs() as usize;
        let size = if ranks < RANKS_IN_GROUPS { 1 } else { group_size(ranks) };
        Self::grouped(communicator, timeout, size)
    }

    /// The same with groups of so many neighbours, 1 for none: a machine's ranks, say. Called by all ranks, with the same size.
    ///
    /// Merging in groups rounds once more, about 2^-24 of M2 and of gradient sums. All ranks get the same bits either way.
    ///
    /// # Errors
    /// [`MpiError::UnevenGroups`].
    pub fn with_groups(communicator: &SimpleCommunicator, timeout: Duration, group: usize) -> Result<Self, MpiError> {
        let ranks = communicator.size().unsigned_abs() as usize;
        if group == 0 || !ranks.is_multiple_of(group) {
            return Err(MpiError::UnevenGroups { ranks, group });
        }
        Ok(Self::grouped(communicator, timeout, group))
    }

    fn grouped(communicator: &SimpleCommunicator, timeout: Duration, size: usize) -> Self {
        let communicator = returning_errors(communicator.duplicate());
        let rank = communicator.rank();
        let groups = Some(size).filter(|&size| size > 1).and_then(|size| c_int::try_from(size).ok()).and_then(|size| {
            let part = |color| communicator.split_by_color(Color::with_value(color)).map(returning_errors);
            Some(Groups { within: part(rank / size)?, across: part(rank % size)? })
        });
        Self { communicator, groups, timeout, broken: false, gathered: Vec::new() }
    }

    /// Sums `values` over all ranks, in place: for gradients of what is not batch norm. All ranks get the same bits.
    ///
    /// # Errors
    /// [`MpiError`].
    pub fn all_sum(&mut self, values: &mut [f32]) -> Result<(), MpiError> {
        let count = count_of(values.len())?;
        self.run(Self::all, values, |from, into, communicator, request| {
            // SAFETY: as `run` says, both buffers have `count` values and stay until the request ends.
            unsafe {
                ffi::MPI_Iallreduce(
                    from.cast(),
                    into.cast(),
                    count,
                    ffi::RSMPI_FLOAT,
                    ffi::RSMPI_SUM,
                    communicator,
                    request,
                )
            }
        })
    }

    /// Starts an operation from a copy of `values` to a buffer of the same length, waits for it and takes the result.
    ///
    /// Both buffers are this function's own. If the operation does not end, they are leaked, so that whatever MPI does with them
    /// later touches no other memory.
    fn run(
        &mut self,
        among: fn(&Self) -> &SimpleCommunicator,
        values: &mut [f32],
        start: impl FnOnce(*const f32, *mut f32, ffi::MPI_Comm, *mut ffi::MPI_Request) -> c_int,
    ) -> Result<(), MpiError> {
        if self.broken {
            return Err(MpiError::Broken);
        }
        let from = values.to_vec();
        let mut into = std::mem::take(&mut self.gathered);
        into.clear();
        into.resize(values.len(), 0.0);
        let mut request = MaybeUninit::uninit();
        let code = start(from.as_ptr(), into.as_mut_ptr(), among(self).as_raw(), request.as_mut_ptr());
        let ended = refused(code).and_then(|()| {
            // SAFETY: MPI has written the request, since it took the operation.
            self.wait(unsafe { request.assume_init() })
        });
        match ended {
            Ok(()) => {
                values.copy_from_slice(&into);
                self.gathered = into;
                Ok(())
            }
            Err(error) => {
                self.broken = true;
                std::mem::forget((from, into));
                Err(error)
            }
        }
    }

    const fn all(&self) -> &SimpleCommunicator {
        &self.communicator
    }

    fn within(&self) -> &SimpleCommunicator {
        self.groups.as_ref().map_or(&self.communicator, |groups| &groups.within)
    }

    fn across(&self) -> &SimpleCommunicator {
        self.groups.as_ref().map_or(&self.communicator, |groups| &groups.across)
    }

    /// Gathers in place among the ranks of a communicator.
    fn gather(&mut self, among: fn(&Self) -> &SimpleCommunicator, messages: &mut [f32]) -> Result<(), MpiError> {
        let (rank, ranks) = (among(self).rank().unsigned_abs() as usize, among(self).size().unsigned_abs() as usize);
        let length = messages.len() / ranks;
        let count = count_of(length)?;
        self.run(among, messages, |from, into, communicator, request| {
            // SAFETY: as `run` says; there are `ranks` shares of `count` values in either buffer, of which this rank's is sent.
            unsafe {
                ffi::MPI_Iallgather(
                    from.add(rank * length).cast(),
                    count,
                    ffi::RSMPI_FLOAT,
                    into.cast(),
                    count,
                    ffi::RSMPI_FLOAT,
                    communicator,
                    request,
                )
            }
        })
    }

    /// Puts the messages of a communicator's ranks in the place of this rank's.
    fn gather_among(
        &mut self,
        among: fn(&Self) -> &SimpleCommunicator,
        length: usize,
        messages: &mut Vec<f32>,
    ) -> Result<(), MpiError> {
        let (rank, ranks) = (among(self).rank().unsigned_abs() as usize, among(self).size().unsigned_abs() as usize);
        messages.resize(length * ranks, 0.0);
        messages.copy_within(..length, rank * length);
        self.gather(among, messages)
    }

    fn wait(&self, mut request: ffi::MPI_Request) -> Result<(), MpiError> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        for test in 0_u32.. {
            let mut done = 0;
            // SAFETY: the request is of an operation that MPI took, and not used after it has ended; its buffers are alive.
            refused(unsafe { ffi::MPI_Test(&raw mut request, &raw mut done, ffi::RSMPI_STATUS_IGNORE) })?;
            if done != 0 {
                return Ok(());
            }
            if start.elapsed() >= self.timeout {
                break;
            }
            if test < EAGER_TESTS {
                thread::yield_now();
            } else {
                thread::sleep(pause);
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
        Err(MpiError::Timeout { ranks: self.ranks(), timeout: self.timeout })
    }
}

fn count_of(values: usize) -> Result<c_int, MpiError> {
    c_int::try_from(values).map_err(|_| MpiError::TooLong { values })
}

fn refused(code: c_int) -> Result<(), MpiError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0_u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the text has the room that MPI asks for.
    let told = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut length) };
    let text = &text[..usize::try_from(length).unwrap_or(0).min(text.len())];
    let message = if told == ffi::MPI_SUCCESS as c_int && !text.is_empty() {
        String::from_utf8_lossy(text).into_owned()
    } else {
        format!("error {code}")
    };
    Err(MpiError::Refused { message })
}

impl Collective for MpiCollective {
    fn rank(&self) -> usize {
        self.communicator.rank().unsigned_abs() as usize
    }

    fn ranks(&self) -> usize {
        self.communicator.size().unsigned_abs() as usize
    }

    fn all_gather(&mut self, messages: &mut [f32]) -> Result<(), BoxError> {
        Ok(self.gather(Self::all, messages)?)
    }

    fn exchange(&mut self, layout: &MessageLayout, messages: &mut Vec<f32>) -> Result<(), BoxError> {
        let length = layout.length();
        if self.groups.is_none() {
            return Ok(self.gather_among(Self::all, length, messages)?);
        }
        self.gather_among(Self::within, length, messages)?;
        let mut merged = vec![0.0; length];
        layout.merge(messages, &mut merged)?;
        messages.clear();
        messages.extend_from_slice(&merged);
        Ok(self.gather_among(Self::across, length, messages)?)
    }
}

fn returning_errors(communicator: SimpleCommunicator) -> SimpleCommunicator {
    // SAFETY: the handle is of a communicator that is alive; the handler is one of MPI's own. A refusal leaves the default, which
    // ends the job.
    unsafe {
        ffi::MPI_Comm_set_errhandler(communicator.as_raw(), ffi::RSMPI_ERRORS_RETURN);
    }
    communicator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_as_many_as_they_are_large_where_that_is_possible() {
        let found: Vec<_> = [1, 32, 37, 64, 96, 1000, 1024].map(group_size).into();
        assert_eq!(found, [1, 4, 1, 8, 8, 25, 32]);
    }
}
