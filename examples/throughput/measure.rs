//! Measures one shape in one layout: the yardsticks and the operations in turn, round after round.

use wgpu_batch_norm::{BatchNorm, Kernels, Layout, Plan};

use crate::buffers::Buffers;
use crate::check::Checker;
use crate::configuration::Configuration;
use crate::floor::{BoundFloor, Floor};
use crate::operations::{Bound, Operation};
use crate::peers::{BoundPeer, Own, Peer};
use crate::shapes::Dims;
use crate::support::Gpu;
use crate::table::{Beside, Figures, Row, Status, Workspace};
use crate::timer::{Record, Summary, Timer};
use crate::yardstick::{BoundYardstick, Yardstick};

/// Tensors from this size on find no use in a second set: one does not fit a cache.
const LARGE: u64 = 64 << 20;

/// What all measurements share.
pub struct Bench<'a> {
    pub gpu: &'a Gpu,
    pub kernels: Kernels,
    pub timer: Timer<'a>,
    /// Copies of different workgroup sizes. The fastest on a shape is its yardstick.
    pub copies: Vec<Yardstick>,
    /// Likewise for sums.
    pub sums: Vec<Yardstick>,
    pub operations: Vec<Operation>,
    pub configuration: Configuration,
    pub rounds: usize,
    /// Seconds that a timed pass should last.
    pub target: f64,
    /// Measure every strategy that serves, the planner's choice first, in place of that choice alone.
    pub every_strategy: bool,
    /// Measure the floor of every operation.
    pub floors: bool,
    /// Measured beside ours where they are made for the shape.
    pub peers: Vec<Peer>,
}

/// An operation on one shape by one plan: bound to every set of buffers and right on all of them, or the reason why not.
struct Candidate {
    operation: Operation,
    plan: Plan,
    bounds: Result<Vec<Bound>, Status>,
}

/// The same of a peer.
struct PeerCandidate<'a> {
    operation: Operation,
    name: &'a str,
    bounds: Result<Vec<BoundPeer>, Status>,
}

impl Bench<'_> {
    /// The batch norm for `dims` under `layout`, and its plan.
    pub fn plan(&self, dims: Dims, layout: Layout) -> Result<(BatchNorm, Plan), wgpu_batch_norm::Error> {
        let descriptor = self.configuration.descriptor(dims[1], layout);
        let bn = BatchNorm::with_kernels(&self.kernels, &descriptor)?;
        let plan = bn.plan(&self.configuration.shape(dims, layout)?)?;
        Ok((bn, plan))
    }

    /// Rows of the yardsticks and of every operation; an operation that cannot be measured has a row that says why.
    pub fn measure(&self, dims: Dims, layout: Layout) -> Vec<Row> {
        let failed = |status: &Status| {
            let operations = self.operations.iter();
            operations.map(|operation| self.row(operation.name(), dims, layout, status.clone(), None)).collect()
        };
        let (bn, plan) = match self.plan(dims, layout) {
            Ok(planned) => planned,
            Err(error) => return failed(&Status::Refused(error.to_string())),
        };
        let count = if plan.tensor_size() < LARGE { 2 } else { 1 };
        let plans = match self.plans(&bn, &plan, dims, layout) {
            Ok(plans) => plans,
            Err(error) => return failed(&Status::Refused(error.to_string())),
        };
        let workspace = plans.iter().map(|(_, plan)| plan.workspace_size()).max().unwrap_or(0);
        let workspace = workspace.max(plan.workspace_size());
        let sets: Result<Vec<Buffers>, String> =
            (0..count).map(|seed| Buffers::new(self.gpu, &plan, workspace, self.configuration, seed)).collect();
        let rows = match sets {
            _ if plan.tensor_size() == 0 => failed(&Status::Refused("the tensor is empty".into())),
            Ok(sets) => self.measure_sets(dims, layout, &bn, &plan, plans, &sets),
            Err(message) => failed(&Status::Refused(message)),
        };
        // What was dropped is freed now, not when the next shape's buffers are there already.
        self.gpu.wait();
        rows
    }

    /// What is to be measured of every operation.
    fn plans(
        &self,
        bn: &BatchNorm,
        plan: &Plan,
        dims: Dims,
        layout: Layout,
    ) -> Result<Vec<(Operation, Plan)>, wgpu_batch_norm::Error> {
        let shape = self.configuration.shape(dims, layout)?;
        let mut plans = Vec::new();
        for operation in self.operations.iter().copied() {
            if !self.every_strategy {
                plans.push((operation, plan.clone()));
                continue;
            }
            for strategies in operation.strategies(bn, &shape, &self.configuration)? {
                plans.push((operation, bn.plan_with(&shape, strategies)?));
            }
        }
        Ok(plans)
    }

    fn measure_sets(
        &self,
        dims: Dims,
        layout: Layout,
        bn: &BatchNorm,
        plan: &Plan,
        plans: Vec<(Operation, Plan)>,
        sets: &[Buffers],
    ) -> Vec<Row> {
        let size = plan.tensor_size();
        let on_sets = |yardstick| self.on_sets(yardstick, sets, size);
        let copies: Vec<_> = self.copies.iter().map(on_sets).collect();
        let sums: Vec<_> = self.sums.iter().map(on_sets).collect();
        let checkers: Vec<_> = sets.iter().map(|set| Checker::new(self.gpu, plan, set)).collect();
        let copied = copies.iter().try_for_each(|copies| {
            checkers.iter().zip(copies).try_for_each(|(checker, copy)| checker.copy(|pass| copy.record(pass)))
        });
        if let Err(message) = copied {
            return vec![self.row("copy", dims, layout, Status::Wrong(message), None)];
        }
        let candidates = self.candidates(bn, plan, plans, sets, &checkers);
        let floors = self.floors(dims, layout, &sets[0]);
        let copies_too = floors.iter().filter(|(operation, _)| *operation == Operation::Inference);
        let copied = copies_too
            .map(|(_, floor)| floor.bind(self.gpu, &sets[0]))
            .try_for_each(|floor| checkers[0].copy(|pass| floor.record(pass)));
        if let Err(message) = copied {
            return vec![self.row(Operation::Inference.floor_name(), dims, layout, Status::Wrong(message), None)];
        }
        let bound_floors: Vec<Vec<BoundFloor<'_>>> =
            floors.iter().map(|(_, floor)| sets.iter().map(|set| floor.bind(self.gpu, set)).collect()).collect();
        let peers = self.peer_candidates(dims, layout, sets, &checkers);
        let mut records: Vec<Record<'_>> = Vec::new();
        for bounds in copies.iter().chain(&sums) {
            records.push(Box::new(|iteration, pass| bounds[iteration % bounds.len()].record(pass)));
        }
        for candidate in &candidates {
            if let Ok(bounds) = &candidate.bounds {
                records.push(Box::new(|iteration, pass| bounds[iteration % bounds.len()].record(pass)));
            }
        }
        for bounds in &bound_floors {
            records.push(Box::new(|iteration, pass| bounds[iteration % bounds.len()].record(pass)));
        }
        for bounds in peers.iter().filter_map(|peer| peer.bounds.as_ref().ok()) {
            records.push(Box::new(|iteration, pass| bounds[iteration % bounds.len()].record(pass)));
        }
        let mut times = self.timer.alternate(self.target, self.rounds, sets.len(), &records);
        let peers_measured = peers.iter().filter(|peer| peer.bounds.is_ok()).count();
        let mut peer_times = times.split_off(times.len() - peers_measured).into_iter();
        // In the order of the records, which is not that of the rows.
        let peer_times: Vec<Option<Summary>> =
            peers.iter().map(|peer| peer.bounds.as_ref().ok().and_then(|_| peer_times.next())).collect();
        let floor_times = times.split_off(times.len() - floors.len());
        let mut times = times.into_iter();
        let mut fastest = |count| times.by_ref().take(count).min_by(|one, other| one.time.total_cmp(&other.time));
        let (Some(copy), Some(sum)) = (fastest(copies.len()), fastest(sums.len())) else { return Vec::new() };
        let copy_gbps = gbps(2 * size, copy.time);
        let figures =
            |time: &Summary, limit: &dyn Fn(f64, f64) -> f64, [ideal, moved]: [u64; 2], strategy, dispatches| Figures {
                strategy,
                dispatches,
                ms: time.time * 1e3,
                spread: time.spread,
                ns_per_element: time.time * 1e9 / plan.problem().elements() as f64,
                ideal_gbps: gbps(ideal, time.time),
                moved_gbps: gbps(moved, time.time),
                copy_ratio: gbps(moved, time.time) / copy_gbps,
                limit_ms: limit(copy.time, sum.time) * 1e3,
                limit_ratio: time.over(&copy, &sum, limit),
            };
        let yardstick = |name, time: &Summary, limit: &dyn Fn(f64, f64) -> f64, bytes| {
            let figures = figures(time, limit, [bytes; 2], "yardstick".into(), 1);
            self.row(name, dims, layout, Status::Measured(figures), None)
        };
        let mut rows =
            vec![yardstick("copy", &copy, &|copy, _| copy, 2 * size), yardstick("sum", &sum, &|_, sum| sum, size)];
        for Candidate { operation, plan, bounds } in &candidates {
            let bytes_of = |operation: Operation, dispatches| {
                let ideal = operation.ideal_bytes(&self.configuration, plan);
                [ideal, operation.moved_bytes(&self.configuration, plan, dispatches)]
            };
            let limit = |copy, sum| operation.limit(&self.configuration, dims[1] as u32, copy, sum);
            let status = match bounds {
                Ok(bounds) => match times.next() {
                    Some(time) => {
                        let dispatches = bounds[0].dispatch_count();
                        Status::Measured(figures(
                            &time,
                            &limit,
                            bytes_of(*operation, dispatches),
                            operation.strategy(&self.configuration, plan, dispatches, self.every_strategy),
                            dispatches,
                        ))
                    }
                    None => continue,
                },
                Err(status) => status.clone(),
            };
            let ours = self.row(operation.name(), dims, layout, status, Some(Workspace::of(plan)));
            let ours_ms = ours.figures().map(|figures| figures.ms);
            rows.push(ours);
            let own = floors.iter().zip(&floor_times).filter(|((of, _), _)| of == operation);
            if let Some(((_, floor), time)) = own.min_by(|(_, one), (_, other)| one.time.total_cmp(&other.time)) {
                let dispatches = floor.dispatch_count();
                let figures = figures(time, &limit, bytes_of(*operation, dispatches), floor.name(), dispatches);
                rows.push(self.row(operation.floor_name(), dims, layout, Status::Measured(figures), None));
            }
            for (peer, time) in peers.iter().zip(&peer_times).filter(|(peer, _)| peer.operation == *operation) {
                let status = match (&peer.bounds, time) {
                    (Ok(bounds), Some(time)) => {
                        let dispatches = bounds[0].dispatch_count();
                        let name = peer.name.to_string();
                        Status::Measured(figures(time, &limit, bytes_of(*operation, dispatches), name, dispatches))
                    }
                    (Ok(_), None) => continue,
                    (Err(status), _) => status.clone(),
                };
                let mut row = self.row(operation.peer_name(), dims, layout, status, None);
                let ratio = row.figures().zip(ours_ms).map(|(figures, ours_ms)| figures.ms / ours_ms);
                row.beside = Some(Beside { peer: peer.name.to_string(), peer_ratio: ratio });
                rows.push(row);
            }
        }
        rows
    }

    fn floors(&self, dims: Dims, layout: Layout, set: &Buffers) -> Vec<(Operation, Floor)> {
        let operations = self.operations.iter().filter(|_| self.floors);
        let of = |operation| Floor::fastest(self.gpu, &self.timer, operation, dims, layout, set);
        operations.flat_map(|&operation| of(operation).into_iter().map(move |floor| (operation, floor))).collect()
    }

    fn on_sets<'a>(&self, yardstick: &'a Yardstick, sets: &[Buffers], size: u64) -> Vec<BoundYardstick<'a>> {
        sets.iter().map(|set| yardstick.bind(self.gpu, &set.input, &set.output, size)).collect()
    }

    /// Binds and checks the operations.
    fn candidates(
        &self,
        bn: &BatchNorm,
        plan: &Plan,
        plans: Vec<(Operation, Plan)>,
        sets: &[Buffers],
        checkers: &[Checker<'_>],
    ) -> Vec<Candidate> {
        let ready = |operation: Operation, plan: &Plan| {
            let bounds: Result<Vec<Bound>, _> = sets.iter().map(|set| operation.bind(bn, plan, set)).collect();
            let bounds = bounds.map_err(|error| Status::Refused(error.to_string()))?;
            check(operation, bounds, checkers, Bound::record)
        };
        if self.configuration.padded && !self.operations.contains(&Operation::Mark) {
            // Everything else reads it; whether it is right shows in what does.
            let _ = ready(Operation::Mark, plan);
        }
        if self.operations.contains(&Operation::Backward) && !self.operations.contains(&Operation::Training) {
            // Backward reads what forward saved; whether forward is right shows in backward.
            let _ = ready(Operation::Training, plan);
        }
        plans
            .into_iter()
            .map(|(operation, plan)| Candidate { bounds: ready(operation, &plan), operation, plan })
            .collect()
    }

    /// Binds and checks what peers have of the operations, training before backward, which reads what it saved.
    fn peer_candidates<'a>(
        &'a self,
        dims: Dims,
        layout: Layout,
        sets: &[Buffers],
        checkers: &[Checker<'_>],
    ) -> Vec<PeerCandidate<'a>> {
        let mut candidates = Vec::new();
        for peer in self.peers.iter().filter(|peer| peer.serves(dims, layout)) {
            let owns = refusing(self.gpu, || Ok(sets.iter().map(|_| peer.own(self.gpu)).collect::<Vec<Own<'_>>>()));
            let ready = |operation| {
                let owns = owns.as_ref().map_err(Status::clone)?;
                refusing(self.gpu, || {
                    let bounds = peer.bind(self.gpu, operation, sets, owns).map_err(Status::Refused)?;
                    check(operation, bounds, checkers, BoundPeer::record)
                })
            };
            if !self.operations.contains(&Operation::Training) && peer.has(Operation::Training) {
                // Whether it is right shows in backward.
                let _ = ready(Operation::Training);
            }
            let operations = self.operations.iter().copied().filter(|operation| peer.has(*operation));
            candidates.extend(operations.map(|operation| PeerCandidate {
                operation,
                name: peer.name(),
                bounds: ready(operation),
            }));
        }
        candidates
    }

    fn row(&self, op: &'static str, dims: Dims, layout: Layout, status: Status, workspace: Option<Workspace>) -> Row {
        Row {
            op,
            layout: match layout {
                Layout::ChannelsFirst => "first",
                Layout::ChannelsLast => "last",
            },
            configuration: self.configuration,
            shape: dims,
            tensor_bytes: dims
                .iter()
                .fold(self.configuration.element.size(), |bytes: u64, dim| bytes.saturating_mul(*dim as u64)),
            status,
            workspace,
            beside: None,
            adapter: self.gpu.info.name.clone(),
            clock: self.timer.clock(),
        }
    }
}

/// What wgpu has against something is the reason why there are no figures.
fn refusing<T>(gpu: &Gpu, work: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
    let scopes =
        [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory].map(|of| gpu.device.push_error_scope(of));
    let done = work();
    // The last pushed is popped first.
    let errors = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop()));
    match errors.collect::<Vec<_>>().into_iter().flatten().next() {
        Some(error) => Err(Status::Refused(error.to_string())),
        None => done,
    }
}

/// Runs an operation on every set, right or wrong, since backward reads what training saved.
fn check<T>(
    operation: Operation,
    bounds: Vec<T>,
    checkers: &[Checker<'_>],
    record: impl Fn(&T, &mut wgpu::ComputePass<'_>),
) -> Result<Vec<T>, Status> {
    let check = |(bound, checker): (&T, &Checker<'_>)| checker.operation(operation, |pass| record(bound, pass));
    let checks: Vec<Result<(), String>> = bounds.iter().zip(checkers).map(check).collect();
    match checks.into_iter().collect::<Result<(), String>>() {
        Ok(()) => Ok(bounds),
        Err(message) => Err(Status::Wrong(message)),
    }
}

/// 10⁹ bytes a second; 0 where the clock saw no time pass.
fn gbps(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / seconds * 1e-9 } else { 0.0 }
}
