//! The calls of MPI that an exchange takes, non-blocking and tested until a deadline, on communicators of its own.
//!
//! They are MPI's own rather than those of the `mpi` crate, which drops return codes and panics where a request is given up. All
//! `unsafe` code of the exchange is here.
#![allow(unsafe_code, reason = "MPI's functions take pointers; see the notes on soundness")]

use std::ffi::c_int;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::thread;
use std::time::{Duration, Instant};

use mpi::environment::{Threading, is_finalized, threading_support};
use mpi::ffi;
use mpi::topology::{Color, Communicator as _, SimpleCommunicator};
use mpi::traits::AsRaw;

use super::MpiError;

/// Tests of a request without a pause: what comes within microseconds is not kept waiting.
const EAGER_TESTS: u32 = 200;
/// The longest pause between two tests.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// A communicator that nobody else has, whose calls return errors.
pub(super) struct Communicator {
    handle: ManuallyDrop<SimpleCommunicator>,
    rank: usize,
    ranks: usize,
}

// SAFETY: the handle is used, and freed, only after `check_thread` has found that MPI takes calls from the thread.
unsafe impl Send for Communicator {}

/// Whether MPI takes calls, and from this thread.
fn check_thread() -> Result<(), MpiError> {
    if is_finalized() {
        return Err(MpiError::Finalized);
    }
    let mut main = 0;
    // SAFETY: MPI was initialised, or there would be no communicator, and has not ended; the call may come from any thread.
    let asked = unsafe { ffi::MPI_Is_thread_main(&raw mut main) };
    if threading_support() == Threading::Multiple || (asked == ffi::MPI_SUCCESS as c_int && main != 0) {
        return Ok(());
    }
    Err(MpiError::WrongThread)
}

impl Communicator {
    /// All ranks of a communicator; called by all of them.
    pub(super) fn duplicate(communicator: &SimpleCommunicator) -> Result<Self, MpiError> {
        check_thread()?;
        Ok(Self::new(communicator.duplicate()))
    }

    /// The ranks of a communicator that give the same colour; called by all of them.
    pub(super) fn split(communicator: &SimpleCommunicator, color: usize) -> Result<Option<Self>, MpiError> {
        check_thread()?;
        let color = Color::with_value(count_of(color)?);
        Ok(communicator.split_by_color(color).map(Self::new))
    }

    fn new(handle: SimpleCommunicator) -> Self {
        // SAFETY: the handle is of a communicator that is alive; the handler is one of MPI's own. A refusal leaves the default,
        // which ends the job.
        unsafe {
            ffi::MPI_Comm_set_errhandler(handle.as_raw(), ffi::RSMPI_ERRORS_RETURN);
        }
        let [rank, ranks] = [handle.rank(), handle.size()].map(|value| value.unsigned_abs() as usize);
        Self { handle: ManuallyDrop::new(handle), rank, ranks }
    }

    pub(super) const fn rank(&self) -> usize {
        self.rank
    }

    pub(super) const fn ranks(&self) -> usize {
        self.ranks
    }

    /// Starts a gather of what all ranks give, in order.
    pub(super) fn gather(&self, own: &[f32]) -> Result<Pending, MpiError> {
        let count = count_of(own.len())?;
        self.start(own, own.len() * self.ranks, |from, into, communicator, request| {
            // SAFETY: as `start` says; `into` has a share of `count` values for each rank.
            unsafe {
                ffi::MPI_Iallgather(
                    from.cast(),
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

    /// Starts a sum over all ranks.
    pub(super) fn sum(&self, own: &[f32]) -> Result<Pending, MpiError> {
        let count = count_of(own.len())?;
        self.start(own, own.len(), |from, into, communicator, request| {
            // SAFETY: as `start` says; both buffers have `count` values.
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

    /// Starts an operation from a copy of `own` to a buffer of so many values. Both stay where they are until it has ended.
    fn start(
        &self,
        own: &[f32],
        results: usize,
        call: impl FnOnce(*const f32, *mut f32, ffi::MPI_Comm, *mut ffi::MPI_Request) -> c_int,
    ) -> Result<Pending, MpiError> {
        check_thread()?;
        let mut buffers = ManuallyDrop::new([own.to_vec(), vec![0.0; results]]);
        let mut request = MaybeUninit::uninit();
        let [from, into] = &mut *buffers;
        refused(call(from.as_ptr(), into.as_mut_ptr(), self.handle.as_raw(), request.as_mut_ptr()))?;
        // SAFETY: MPI has written the request, since it took the operation.
        Ok(Pending { request: unsafe { request.assume_init() }, buffers })
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Where MPI takes no call it is left as it is, to the end of the process.
        if check_thread().is_ok() {
            // SAFETY: the handle is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.handle) }
        }
    }
}

/// An operation under way. Its buffers are leaked if it is dropped before it has ended, so that whatever MPI does with them later
/// touches no other memory.
pub(super) struct Pending {
    request: ffi::MPI_Request,
    buffers: ManuallyDrop<[Vec<f32>; 2]>,
}

impl Pending {
    /// Waits for the end, and gives the result.
    pub(super) fn wait(mut self, deadline: Deadline) -> Result<Vec<f32>, MpiError> {
        let mut pause = Duration::from_micros(20);
        for test in 0_u32.. {
            let mut done = 0;
            // SAFETY: the request is of an operation that MPI took on this thread, and not used after it has ended.
            refused(unsafe { ffi::MPI_Test(&raw mut self.request, &raw mut done, ffi::RSMPI_STATUS_IGNORE) })?;
            if done != 0 {
                let [_, result] = ManuallyDrop::into_inner(self.buffers);
                return Ok(result);
            }
            if deadline.has_passed() {
                break;
            }
            if test < EAGER_TESTS {
                thread::yield_now();
            } else {
                thread::sleep(pause);
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
        Err(MpiError::Timeout { timeout: deadline.timeout })
    }
}

/// When waiting ends.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self { start: Instant::now(), timeout }
    }

    fn has_passed(&self) -> bool {
        self.start.elapsed() >= self.timeout
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
