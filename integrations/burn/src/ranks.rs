//! One batch over the ranks of a job: what they share, and the exchanges of a batch norm.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu_batch_norm::exchange::{Collective, Exchange, ExchangeItem, Fetch};
use wgpu_batch_norm::{Plan, wgpu};

use crate::Unserved;
use crate::engine::Engine;

/// The ranks of a job, over which batch norms take one batch: [`BatchNorm::with_ranks`](crate::BatchNorm::with_ranks).
///
/// Made of whatever carries their messages: `wgpu_batch_norm`'s `MpiCollective`, or a closure over `&mut [f32]`. Clones are the
/// same ranks.
///
/// ```
/// use burn_wgpu_batch_norm::Ranks;
/// use wgpu_batch_norm::exchange::gather_with;
/// // A job of one rank: there is nothing to do.
/// let ranks = Ranks::new(gather_with(0, 1, |_messages: &mut [f32]| Ok(())));
/// ```
#[derive(Clone)]
pub struct Ranks(Arc<Mutex<dyn Collective + Send>>);

impl Ranks {
    /// The ranks among which a collective carries messages.
    #[must_use]
    pub fn new(collective: impl Collective + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(collective)))
    }

    /// The collective, for what else the program exchanges: gradients, say. Not while a forward or backward is under way, which on
    /// Burn's runtime ends when a result has been read.
    pub fn with_collective<T>(&self, task: impl FnOnce(&mut (dyn Collective + Send)) -> T) -> T {
        task(&mut *lock(&self.0))
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranks").finish_non_exhaustive()
    }
}

/// A batch norm's share in the work of its ranks. Clones are those of one module.
#[derive(Clone, Debug)]
pub(crate) struct Synchronised {
    ranks: Ranks,
    layer: Arc<Mutex<Option<Layer>>>,
}

/// Records on their way, and their exchanges.
#[derive(Debug)]
pub(crate) struct Layer {
    device: wgpu::Device,
    pub(crate) moments: Way,
    pub(crate) sums: Way,
}

/// A buffer that is exchanged in place.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) records: wgpu::Buffer,
    exchange: Exchange,
    under_way: Option<(wgpu::SubmissionIndex, Fetch)>,
}

impl Synchronised {
    pub(crate) fn new(ranks: &Ranks) -> Self {
        Self { ranks: ranks.clone(), layer: Arc::default() }
    }

    /// Works with the layer's records; `way` says which ones are exchanged between `before` and `after`.
    pub(crate) fn exchange(
        &self,
        engine: &Engine,
        plan: &Plan,
        way: fn(&mut Layer) -> &mut Way,
        before: impl FnOnce(&mut Way) -> Result<(), Unserved>,
        after: impl FnOnce(&Way) -> Result<(), Unserved>,
    ) -> Result<(), Unserved> {
        let mut layer = lock(&self.layer);
        let layer = match &mut *layer {
            Some(layer) if layer.device == *engine.device() => layer,
            // None yet, or the module has moved.
            other => other.insert(Layer::new(engine, plan)?),
        };
        let way = way(layer);
        let fetched = before(way).and_then(|()| match way.under_way.take() {
            Some((submission, fetch)) => engine.wait(submission, fetch),
            None => Ok(()),
        });
        let exchanged = self.ranks.with_collective(|collective| match fetched {
            Ok(()) => way.exchange.finish(engine.queue(), collective).map_err(failed),
            Err(error) => {
                // The others need not wait for this rank; its own error is the one to report.
                let _ = way.exchange.abandon(collective);
                Err(error)
            }
        });
        exchanged?;
        after(way)
    }
}

/// Of the same layer.
impl PartialEq for Synchronised {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layer, &other.layer)
    }
}

impl Layer {
    fn new(engine: &Engine, plan: &Plan) -> Result<Self, Unserved> {
        let records = engine.records("burn: moments", plan.part_moments_size());
        let moments = Way::new(engine, "forward", &records, ExchangeItem::moments(plan, records.slice(..)))?;
        let records = engine.records("burn: gradient sums", plan.gradient_sums_size());
        let sums = Way::new(engine, "backward", &records, ExchangeItem::gradient_sums(plan, records.slice(..)))?;
        Ok(Self { device: engine.device().clone(), moments, sums })
    }
}

impl Way {
    fn new(engine: &Engine, name: &str, records: &wgpu::Buffer, item: ExchangeItem<'_>) -> Result<Self, Unserved> {
        let exchange = Exchange::new(engine.device(), &[item]).map_err(failed)?.named(name);
        Ok(Self { records: records.clone(), exchange, under_way: None })
    }

    /// Submits what computes the records, and their way to the host.
    pub(crate) fn submit(
        &mut self,
        engine: &Engine,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<(), Unserved> {
        self.exchange.reset();
        let exchange = &mut self.exchange;
        let mut fetch = None;
        let submission = engine.submit(|encoder| {
            record(encoder);
            fetch = Some(exchange.record(encoder));
        });
        self.under_way = fetch.transpose().map_err(failed)?.map(|fetch| (submission, fetch));
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: wgpu_batch_norm::exchange::ExchangeError) -> Unserved {
    Unserved::Exchange { reason: error.to_string() }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
