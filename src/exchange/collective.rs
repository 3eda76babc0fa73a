//! What carries messages between ranks: a trait, a closure, and one for threads of a process.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::BoxError;
use super::message::MessageLayout;

/// Something that carries messages between the ranks of a job: MPI, a library of a vendor's, threads of one process.
///
/// All ranks call the same methods in the same order. A call may wait for the others, but not for ever: where one of them has
/// died, it must come back with an error.
pub trait Collective {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// An all-gather in place. `messages` has an equal share for each rank, in order; this rank's holds its message and the
    /// others zeros. Afterwards each share holds the message of its rank.
    ///
    /// Where a library can only sum, an all-reduce by sum does the same: every value is one rank's and zeros.
    ///
    /// # Errors
    /// Whatever went wrong; it becomes [`ExchangeError::Collective`](super::ExchangeError::Collective).
    fn all_gather(&mut self, messages: &mut [f32]) -> Result<(), BoxError>;

    /// Puts in the place of this rank's message those of all ranks, in order, or what [`MessageLayout::merge`] makes of them in
    /// groups of neighbours. All ranks must get the same.
    ///
    /// Provided: an all-gather, which is exact and takes one step, and receives as many messages as there are ranks. For many
    /// ranks a collective may merge on the way.
    ///
    /// # Errors
    /// As [`Collective::all_gather`].
    fn exchange(&mut self, layout: &MessageLayout, messages: &mut Vec<f32>) -> Result<(), BoxError> {
        gather(self, layout.length(), messages)
    }
}

/// Makes room for the messages of all ranks and gathers them.
pub(super) fn gather<C: Collective + ?Sized>(
    collective: &mut C,
    length: usize,
    messages: &mut Vec<f32>,
) -> Result<(), BoxError> {
    let (rank, ranks) = (collective.rank(), collective.ranks());
    if rank >= ranks {
        return Err(format!("rank {rank} of {ranks} does not exist").into());
    }
    messages.resize(length, 0.0);
    messages.resize(length * ranks, 0.0);
    messages.copy_within(..length, rank * length);
    if rank > 0 {
        messages[..length].fill(0.0);
    }
    collective.all_gather(messages)
}

/// Values of each rank among those of all.
pub(super) fn share(messages: &[f32], ranks: usize) -> Result<usize, BoxError> {
    match messages.len().checked_div(ranks) {
        Some(length) if length * ranks == messages.len() => Ok(length),
        _ => Err(format!("{} values are not {ranks} equal shares", messages.len()).into()),
    }
}

/// A collective made of a closure; see [`gather_with`].
pub struct GatherWith<F> {
    rank: usize,
    ranks: usize,
    gather: F,
}

impl<F> fmt::Debug for GatherWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatherWith").field("rank", &self.rank).field("ranks", &self.ranks).finish_non_exhaustive()
    }
}

/// A collective made of a closure over `&mut [f32]`, which gathers in place as [`Collective::all_gather`] says, or sums.
///
/// ```
/// use wgpu_batch_norm::exchange::{Collective, gather_with};
/// // A job of one rank: there is nothing to do.
/// let mut alone = gather_with(0, 1, |_messages: &mut [f32]| Ok(()));
/// let mut values = [1.0, 2.0];
/// alone.all_gather(&mut values)?;
/// # Ok::<(), wgpu_batch_norm::exchange::BoxError>(())
/// ```
pub const fn gather_with<F: FnMut(&mut [f32]) -> Result<(), BoxError>>(
    rank: usize,
    ranks: usize,
    gather: F,
) -> GatherWith<F> {
    GatherWith { rank, ranks, gather }
}

impl<F: FnMut(&mut [f32]) -> Result<(), BoxError>> Collective for GatherWith<F> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_gather(&mut self, messages: &mut [f32]) -> Result<(), BoxError> {
        (self.gather)(messages)
    }
}

#[derive(Debug, Default)]
struct Round {
    messages: Vec<f32>,
    arrived: usize,
    /// Values in the messages of this round.
    length: usize,
    /// Rounds completed, and what the last of them gathered.
    done: u64,
    gathered: Arc<Vec<f32>>,
    /// Why nothing more is gathered.
    broken: Option<String>,
}

#[derive(Debug, Default)]
struct Meeting {
    round: Mutex<Round>,
    changed: Condvar,
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first reason stays.
    fn break_off(&self, round: &mut Round, reason: String) -> BoxError {
        let reason = round.broken.get_or_insert(reason).clone();
        self.changed.notify_all();
        reason.into()
    }
}

/// One rank of a job within this process; see [`threads`].
#[derive(Debug)]
pub struct ThreadCollective {
    meeting: Arc<Meeting>,
    rank: usize,
    ranks: usize,
    timeout: Duration,
}

/// A collective for threads of this process, a rank each: for several devices, each driven by a thread.
///
/// Waiting takes no time of the processor. Who waits longer than `timeout` gets an error, and so does everybody else from then on; the
/// same when one of them is dropped.
#[must_use]
pub fn threads(ranks: usize, timeout: Duration) -> Vec<ThreadCollective> {
    let meeting = Arc::new(Meeting::default());
    (0..ranks).map(|rank| ThreadCollective { meeting: Arc::clone(&meeting), rank, ranks, timeout }).collect()
}

impl Collective for ThreadCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_gather(&mut self, messages: &mut [f32]) -> Result<(), BoxError> {
        let length = share(messages, self.ranks)?;
        let own = self.rank * length..(self.rank + 1) * length;
        let start = Instant::now();
        let mut round = self.meeting.lock();
        if let Some(reason) = &round.broken {
            return Err(reason.clone().into());
        }
        if round.arrived == 0 {
            round.length = length;
            round.messages.clear();
            round.messages.resize(length * self.ranks, 0.0);
        } else if round.length != length {
            let reason = format!("rank {} gathers {length} values, others {}", self.rank, round.length);
            return Err(self.meeting.break_off(&mut round, reason));
        }
        round.messages[own.clone()].copy_from_slice(&messages[own]);
        round.arrived += 1;
        let mine = round.done + 1;
        if round.arrived == self.ranks {
            round.gathered = Arc::new(std::mem::take(&mut round.messages));
            round.arrived = 0;
            round.done = mine;
            self.meeting.changed.notify_all();
        }
        while round.done < mine {
            if let Some(reason) = &round.broken {
                return Err(reason.clone().into());
            }
            let left = self.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                let reason = format!("{} of {} ranks came within {:?}", round.arrived, self.ranks, self.timeout);
                return Err(self.meeting.break_off(&mut round, reason));
            }
            round = self.meeting.changed.wait_timeout(round, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // The next round cannot end before this rank takes part in it.
        messages.copy_from_slice(&round.gathered);
        Ok(())
    }
}

impl Drop for ThreadCollective {
    fn drop(&mut self) {
        let mut round = self.meeting.lock();
        let reason = format!("rank {} has left", self.rank);
        drop(self.meeting.break_off(&mut round, reason));
    }
}
