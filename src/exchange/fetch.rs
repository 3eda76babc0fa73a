//! Where the records are on their way to the host.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::ExchangeError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Idle,
    Asked,
    Mapped,
    Refused,
}

#[derive(Debug, Default)]
struct Shared {
    stage: Stage,
    wakers: Vec<Waker>,
}

/// A future of records on their way to the host: ready when [`Exchange::finish`](super::Exchange::finish) can be called.
///
/// Somebody has to poll the device, as for every mapping on native backends. Clones are the same future, and a dropped one
/// changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Fetch(Arc<Mutex<Shared>>);

impl Fetch {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stage(&self) -> Stage {
        self.lock().stage
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stage() == Stage::Idle
    }

    pub(super) fn ask(&self) -> Asked {
        self.lock().stage = Stage::Asked;
        Asked(self.clone())
    }

    fn change(&self, stage: Stage) {
        let mut shared = self.lock();
        shared.stage = stage;
        let wakers = std::mem::take(&mut shared.wakers);
        drop(shared);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The answer to be given. Commands that are dropped without having been submitted leave the exchange as it was.
#[derive(Debug)]
pub(super) struct Asked(Fetch);

impl Asked {
    pub(super) fn answer(self, mapped: bool) {
        self.0.change(if mapped { Stage::Mapped } else { Stage::Refused });
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.0.stage() == Stage::Asked {
            self.0.change(Stage::Idle);
        }
    }
}

impl Future for Fetch {
    type Output = Result<(), ExchangeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.lock();
        match shared.stage {
            Stage::Mapped => Poll::Ready(Ok(())),
            Stage::Refused => Poll::Ready(Err(ExchangeError::NotMapped)),
            Stage::Idle => Poll::Ready(Err(ExchangeError::NotReady)),
            Stage::Asked => {
                if !shared.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    shared.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
