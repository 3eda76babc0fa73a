//! One batch over several devices: how the records of its parts get from one to the other, by way of the host.
//!
//! [`BatchNorm::bind_part_moments`](crate::BatchNorm::bind_part_moments) and what follows it say what is computed. An
//! [`Exchange`] takes the records of one or several layers to the host, hands them as one message to a [`Collective`], and writes
//! what all ranks' come to back into the device's buffers, as the records of one part:
//!
//! ```no_run
//! use wgpu_batch_norm::exchange::{Collective, Exchange, ExchangeError, ExchangeItem};
//! # use wgpu_batch_norm::{Plan, Step, TrainingStep, wgpu};
//! # fn demo(device: &wgpu::Device, queue: &wgpu::Queue, plan: &Plan, moments: &wgpu::Buffer, part_moments: &Step,
//! # training: &TrainingStep, collective: &mut dyn Collective, other_work: wgpu::CommandBuffer) -> Result<(), ExchangeError> {
//! // Once: staging is made here and never again.
//! let mut exchange = Exchange::new(device, &[ExchangeItem::moments(plan, moments.slice(..))])?;
//!
//! // Every step: `part_moments` is of `bind_part_moments`, `training` of `bind_training_from_parts`, both on `moments`.
//! let mut encoder = device.create_command_encoder(&Default::default());
//! part_moments.record_into(&mut encoder);
//! exchange.record(&mut encoder)?;
//! let submission = queue.submit([encoder.finish()]);
//! queue.submit([other_work]); // the device goes on while messages travel
//! device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None }).expect("the device works");
//! exchange.finish(queue, collective)?; // on an error nothing was written, and nothing more may be submitted
//! let mut encoder = device.create_command_encoder(&Default::default());
//! training.record_into(&mut encoder);
//! queue.submit([encoder.finish()]);
//! # Ok(()) }
//! ```
//!
//! Nothing here submits, polls or waits, but for the collective's own call. In an async program, await the [`Fetch`] that
//! [`Exchange::record`] returns; await it as well where another thread polls the device, since what makes the records ready may then be
//! running on that thread when a poll on this one returns. A program that drives several devices from one thread, or an engine that works in the
//! background, takes the message with [`Exchange::take`] and gives all of them to [`Exchange::deliver`].
//!
//! # What is exact
//!
//! Merges are taken in f64 in order of rank and rounded once, so all ranks write the same bits, on whatever machine. The mean
//! travels in two parts. What is written is one part's record: a count, summed over ranks, beyond a u32 is
//! [`Error::TooManyForMoments`].
//!
//! # What can go wrong
//!
//! Ranks tell each other once what they exchange, and a rank with other channels or another convention is an error on all of
//! them. Every message says which exchange and which step it is of, and whether its rank has given up; ranks that finish their
//! exchanges in different orders find that out, see [`Exchange::named`]. An error leaves the buffers as they were. Who dies
//! without a word is found out by the collective, which must not wait for ever.
//!
//! So that a step that fails changes nothing, not even in the layers before the one that failed, record training
//! [without](crate::TrainingStep::record_without_running_update) the update of running statistics, and once all exchanges of the
//! step have succeeded, [`BatchNorm::bind_conclude`](crate::BatchNorm::bind_conclude) of every layer, beside the optimiser's step.

mod collective;
mod error;
mod fetch;
mod message;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};

pub use collective::{Collective, GatherWith, ThreadCollective, gather_with, threads};
pub use error::{BoxError, ExchangeError};
pub use fetch::Fetch;
pub use message::MessageLayout;
#[cfg(feature = "mpi")]
pub use mpi::{MpiCollective, MpiError};

use crate::gpu::{scoped, write};
use crate::{Error, Plan};
use fetch::Stage;
use message::{GREETING, Kind};

/// Records of one layer, and where what all ranks' come to is written.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeItem<'a> {
    kind: Kind,
    plan: &'a Plan,
    from: wgpu::BufferSlice<'a>,
    into: wgpu::BufferSlice<'a>,
}

impl<'a> ExchangeItem<'a> {
    /// Moments of this rank's part ([`Plan::part_moments_size`] bytes), replaced by those of the whole batch.
    #[must_use]
    pub const fn moments(plan: &'a Plan, moments: wgpu::BufferSlice<'a>) -> Self {
        Self { kind: Kind::Moments, plan, from: moments, into: moments }
    }

    /// Gradient sums of this rank's part ([`Plan::gradient_sums_size`] bytes), replaced by those of the whole batch.
    #[must_use]
    pub const fn gradient_sums(plan: &'a Plan, sums: wgpu::BufferSlice<'a>) -> Self {
        Self { kind: Kind::GradientSums, plan, from: sums, into: sums }
    }

    /// Writes elsewhere, and leaves this rank's records.
    #[must_use]
    pub const fn into(self, into: wgpu::BufferSlice<'a>) -> Self {
        Self { into, ..self }
    }
}

#[derive(Debug)]
struct Place {
    buffer: wgpu::Buffer,
    offset: u64,
}

#[derive(Debug)]
struct Route {
    from: Place,
    into: Place,
    size: u64,
}

/// The way of some layers' records between ranks: staging, and the layout of their message. Made once; see the
/// [module](self).
///
/// Layers that do not wait for each other share one, and so one message. Several may be under way at once, if all ranks finish
/// them in the same order; another order is an error on all of them.
pub struct Exchange {
    /// To catch what is said of buffers that were destroyed with it.
    device: wgpu::Device,
    routes: Vec<Route>,
    layout: MessageLayout,
    staging: wgpu::Buffer,
    fetch: Fetch,
    /// What was fetched is of a step that was given up.
    stale: bool,
    /// By which ranks tell the exchanges of this process apart.
    number: u32,
    /// Exchanges that were finished, well or not.
    step: u32,
    agreed: bool,
    messages: Vec<f32>,
    merged: Vec<f32>,
    records: Vec<u8>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("layout", &self.layout).field("step", &self.step).finish_non_exhaustive()
    }
}

impl Exchange {
    /// # Errors
    /// [`ExchangeError::NoItems`], [`ExchangeError::MissingCopySource`], and refused: [`Error::WrongSize`],
    /// [`Error::MissingCopyUsage`], [`Error::MisalignedCopy`], [`Error::Device`], [`Error::OutOfMemory`].
    pub fn new(device: &wgpu::Device, items: &[ExchangeItem<'_>]) -> Result<Self, ExchangeError> {
        if items.is_empty() {
            return Err(ExchangeError::NoItems);
        }
        let mut routes = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let (binding, size) = match item.kind {
                Kind::Moments => ("moments", item.plan.part_moments_size()),
                Kind::GradientSums => ("sums", item.plan.gradient_sums_size()),
            };
            for slice in [item.from, item.into] {
                if slice.size() != size {
                    return Err(Error::WrongSize { binding, expected: size, actual: slice.size() }.into());
                }
                if !slice.offset().is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT) {
                    return Err(Error::MisalignedCopy { binding, offset: slice.offset() }.into());
                }
            }
            if !item.from.buffer().usage().contains(wgpu::BufferUsages::COPY_SRC) {
                return Err(ExchangeError::MissingCopySource { item: index });
            }
            if !item.into.buffer().usage().contains(wgpu::BufferUsages::COPY_DST) {
                return Err(Error::MissingCopyUsage { binding }.into());
            }
            let place = |slice: wgpu::BufferSlice<'_>| Place { buffer: slice.buffer().clone(), offset: slice.offset() };
            routes.push(Route { from: place(item.from), into: place(item.into), size });
        }
        let layout = MessageLayout::new(items.iter().map(|item| (item.kind, item.plan)));
        let staging = scoped(device, "the staging buffer", || {
            Ok(device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu_batch_norm::exchange::staging"),
                size: routes.iter().map(|route| route.size).sum(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }))
        })?;
        let (messages, merged) = (Vec::with_capacity(layout.length()), vec![0.0; layout.length()]);
        Ok(Self {
            device: device.clone(),
            routes,
            layout,
            staging,
            fetch: Fetch::default(),
            stale: false,
            // At random, which takes no state that exchanges share.
            number: RandomState::new().hash_one(0_u32) as u32,
            step: 0,
            agreed: false,
            messages,
            merged,
            records: Vec::new(),
        })
    }

    /// Gives the exchange a name, the same on all ranks: that of its layer and direction, say.
    ///
    /// At their first [`Exchange::finish`] ranks make exchanges that are alike partners for good, and a rank that later takes
    /// another one's turn is an error on all ranks, with names or without. Names also find out the rank that does so the first
    /// time already, where two layers have the same channels and convention.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.layout.set_name(name);
        self
    }

    /// How this exchange's messages are laid out.
    #[must_use]
    pub const fn layout(&self) -> &MessageLayout {
        &self.layout
    }

    /// Records the copy of the records to the host, behind what computes them. The mapping starts by itself with the submission;
    /// it is ready when the device has been polled, or, in a browser, by itself.
    ///
    /// # Errors
    /// [`ExchangeError::UnderWay`] if this was recorded before and not finished.
    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<Fetch, ExchangeError> {
        if self.stale {
            self.reset();
        }
        if !self.fetch.is_idle() {
            return Err(ExchangeError::UnderWay);
        }
        let mut at = 0;
        for route in &self.routes {
            encoder.copy_buffer_to_buffer(&route.from.buffer, route.from.offset, &self.staging, at, route.size);
            at += route.size;
        }
        self.fetch = Fetch::default();
        let asked = self.fetch.ask();
        encoder
            .map_buffer_on_submit(&self.staging, wgpu::MapMode::Read, .., move |result| asked.answer(result.is_ok()));
        Ok(self.fetch.clone())
    }

    /// Whether the records are on the host.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.stale && self.fetch.stage() == Stage::Mapped
    }

    /// Takes this rank's message, [`MessageLayout::length`] values, and gives staging free for the next one.
    ///
    /// # Errors
    /// [`ExchangeError::NotReady`], [`ExchangeError::NotMapped`], [`ExchangeError::MixedCounts`].
    pub fn take(&mut self) -> Result<Vec<f32>, ExchangeError> {
        let mut message = Vec::new();
        self.take_into(&mut message)?;
        Ok(message)
    }

    fn take_into(&mut self, message: &mut Vec<f32>) -> Result<(), ExchangeError> {
        match self.fetch.stage() {
            Stage::Idle | Stage::Asked => return Err(ExchangeError::NotReady),
            _ if self.stale => {
                self.stale = false;
                let _ = self.free();
                return Err(ExchangeError::NotReady);
            }
            Stage::Refused => {
                self.fetch = Fetch::default();
                return Err(ExchangeError::NotMapped);
            }
            Stage::Mapped => {}
        }
        message.clear();
        message.resize(self.layout.length(), 0.0);
        let written = match self.staging.get_mapped_range(..) {
            Ok(view) => self.layout.write(&view, self.step, message),
            Err(_) => Err(ExchangeError::NotMapped),
        };
        let freed = self.free();
        written.and(freed)
    }

    /// Writes what `messages` come to into the device's buffers: the messages of all ranks in order, or what
    /// [`MessageLayout::merge`] made of them. The writes come before the next submission.
    ///
    /// # Errors
    /// What is wrong with a message: [`ExchangeError::Missing`], [`ExchangeError::GivenUp`],
    /// [`ExchangeError::Disagreement`], [`ExchangeError::OutOfStep`], [`ExchangeError::WrongLength`]. Refused:
    /// [`Error::TooManyForMoments`]; [`Error::Device`] where a buffer was destroyed, and [`Error::DeviceLost`].
    pub fn deliver(&mut self, queue: &wgpu::Queue, messages: &[f32]) -> Result<(), ExchangeError> {
        self.deliver_from(queue, messages, None)
    }

    fn deliver_from(
        &mut self,
        queue: &wgpu::Queue,
        messages: &[f32],
        ranks: Option<usize>,
    ) -> Result<(), ExchangeError> {
        let step = self.step;
        self.step = step.wrapping_add(1);
        self.layout.merge(messages, &mut self.merged)?;
        self.layout.read(&self.merged, step, ranks, &mut self.records)?;
        let mut records = &self.records[..];
        Ok(scoped(&self.device, "the merged records", || {
            for route in &self.routes {
                let (own, rest) = records.split_at(route.size as usize);
                records = rest;
                write(queue, &route.into.buffer, route.into.offset, own)?;
            }
            Ok(())
        })?)
    }

    /// Takes this rank's message, has the collective bring those of all ranks, and writes what they come to: the whole of an
    /// exchange, once the records are on the host. The first time, ranks find out whether they agree.
    ///
    /// A rank that cannot take its message tells the others, so that none of them waits.
    ///
    /// # Errors
    /// As [`Exchange::take`] and [`Exchange::deliver`], [`ExchangeError::WrongRanks`], and [`ExchangeError::Collective`]. Only
    /// after [`ExchangeError::NotReady`] has the collective not been called.
    pub fn finish<C: Collective + ?Sized>(
        &mut self,
        queue: &wgpu::Queue,
        collective: &mut C,
    ) -> Result<(), ExchangeError> {
        let mut messages = std::mem::take(&mut self.messages);
        let finished = match self.take_into(&mut messages) {
            Err(ExchangeError::NotReady) => Err(ExchangeError::NotReady),
            Err(own) => {
                // The others hear of it, or have troubles of their own; this rank's is the one to report.
                let _ = self.tell_of_failure(collective, &mut messages);
                Err(own)
            }
            Ok(()) => self.agree(collective, false).and_then(|()| {
                // Anew, since ranks that have just agreed know each other's exchanges now.
                self.layout.address(self.step, &mut messages);
                match collective.exchange(&self.layout, &mut messages) {
                    Ok(()) => self.deliver_from(queue, &messages, Some(collective.ranks())),
                    Err(error) => {
                        self.step = self.step.wrapping_add(1);
                        Err(ExchangeError::Collective(error))
                    }
                }
            }),
        };
        self.messages = messages;
        finished
    }

    /// Takes part in the exchange that the other ranks are at, to tell them that this one has given up, so that they need not wait
    /// for it. For a program that cannot go on.
    ///
    /// # Errors
    /// [`ExchangeError::Collective`].
    pub fn abandon<C: Collective + ?Sized>(&mut self, collective: &mut C) -> Result<(), ExchangeError> {
        self.reset();
        let mut messages = std::mem::take(&mut self.messages);
        let told = self.tell_of_failure(collective, &mut messages);
        self.messages = messages;
        told
    }

    fn tell_of_failure<C: Collective + ?Sized>(
        &mut self,
        collective: &mut C,
        messages: &mut Vec<f32>,
    ) -> Result<(), ExchangeError> {
        if !self.agreed {
            return match self.agree(collective, true) {
                Err(ExchangeError::Collective(error)) => Err(ExchangeError::Collective(error)),
                _ => Ok(()),
            };
        }
        messages.resize(self.layout.length(), 0.0);
        self.layout.write_failure(self.step, messages);
        self.step = self.step.wrapping_add(1);
        collective.exchange(&self.layout, messages).map_err(ExchangeError::Collective)
    }

    /// Finds out, once, whether all ranks exchange the same.
    fn agree<C: Collective + ?Sized>(&mut self, collective: &mut C, given_up: bool) -> Result<(), ExchangeError> {
        if self.agreed {
            return Ok(());
        }
        let mut greetings = self.layout.greeting(self.number, given_up).to_vec();
        collective::gather(collective, GREETING, &mut greetings).map_err(ExchangeError::Collective)?;
        self.layout.pair(&greetings)?;
        self.agreed = true;
        Ok(())
    }

    /// Gives up what was fetched, so that the exchange can be recorded again. What is still on its way keeps staging until the
    /// device has been polled, or the commands have been dropped; it will not be taken.
    pub fn reset(&mut self) {
        self.stale = self.fetch.stage() == Stage::Asked;
        if !self.stale {
            // Of a device that is lost nothing has to be given free.
            let _ = self.free();
        }
    }

    /// Unmaps staging, which a lost device refuses.
    fn free(&mut self) -> Result<(), ExchangeError> {
        let mapped = std::mem::take(&mut self.fetch).stage() == Stage::Mapped;
        let unmapped = scoped(&self.device, "the staging buffer", || {
            if mapped {
                self.staging.unmap();
            }
            Ok(())
        });
        unmapped.map_err(|_| ExchangeError::NotMapped)
    }
}
