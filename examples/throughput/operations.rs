//! The operations: what they are called, what bytes they must and do move, and how they are bound.

use clap::ValueEnum;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, Error, Family, FrozenBackwardBuffers, Gradient, InferenceBuffers, Operation as Planned,
    Plan, Renormalization, RunningStatistics, Shape, Step, Strategies, Strategy, TrainingBuffers, TrainingStep,
    ValidBuffers, ValidSource,
};

use crate::buffers::{Buffers, Padding, Renormalizing};
use crate::configuration::{Configuration, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Training forward, with running and saved statistics
    Training,
    /// Inference from running statistics
    Inference,
    /// Backward through training statistics, all gradients, from saved statistics
    Backward,
    /// Backward through frozen statistics, all gradients
    #[value(name = "backward_frozen")]
    BackwardFrozen,
    /// Finding out what is padding, once a batch; with `--padded` only
    Mark,
}

impl Operation {
    /// All that go over tensors.
    pub const ALL: [Self; 4] = [Self::Training, Self::Inference, Self::Backward, Self::BackwardFrozen];

    /// All that a configuration has, marking first, since the others read what it writes.
    pub fn of(configuration: &Configuration) -> impl Iterator<Item = Self> {
        configuration.padded.then_some(Self::Mark).into_iter().chain(Self::ALL)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Inference => "inference",
            Self::Backward => "backward",
            Self::BackwardFrozen => "backward_frozen",
            Self::Mark => "mark",
        }
    }

    /// What the row of its floor is called.
    pub const fn floor_name(self) -> &'static str {
        match self {
            Self::Training => "floor_training",
            Self::Inference => "floor_inference",
            Self::Backward => "floor_backward",
            Self::BackwardFrozen => "floor_frozen",
            Self::Mark => "floor_mark",
        }
    }

    /// What the rows of its peers are called.
    pub const fn peer_name(self) -> &'static str {
        match self {
            Self::Training => "peer_training",
            Self::Inference => "peer_inference",
            Self::Backward => "peer_backward",
            Self::BackwardFrozen => "peer_frozen",
            Self::Mark => "peer_mark",
        }
    }

    /// Tensors that the reduction and the map of the plain operation read; `None` where it goes over no tensor.
    pub const fn walks(self) -> Option<[u32; 2]> {
        match self {
            Self::Training => Some([1, 1]),
            Self::Inference => Some([0, 1]),
            Self::Backward => Some([2, 2]),
            Self::BackwardFrozen => Some([2, 1]),
            Self::Mark => None,
        }
    }

    /// What the reduction reads, what the map reads, and what is written.
    ///
    /// An activation's derivative is taken in both walks of a backward, and padding looked up in every walk. Not
    /// counted: what a kernel reads without a use for it, and that marking counts the bits that it has written.
    fn traffic(self, configuration: &Configuration) -> [Traffic; 3] {
        let tensors = |tensors| Traffic { tensors, ..Traffic::default() };
        let bits = |bits| Traffic { bits, ..Traffic::default() };
        let valid = bits(u64::from(configuration.padded));
        let residual = u64::from(configuration.residual);
        let derivative = configuration.derivative();
        let masks = u64::from(derivative == Some(Source::Mask));
        // What the backwards read to know the derivative, x apart.
        let state = match derivative {
            None => tensors(0),
            Some(Source::Recompute) => tensors(residual),
            Some(Source::Output) => tensors(1),
            Some(Source::Mask) => bits(1),
        };
        let recomputed = u64::from(derivative == Some(Source::Recompute));
        let (forward, gradients) = (tensors(1).and(bits(masks)), tensors(1 + residual));
        let walk = |tensors_read| tensors(tensors_read).and(valid);
        match self {
            Self::Training => [walk(1), walk(1 + residual), forward],
            Self::Inference => [tensors(0), walk(1 + residual), forward],
            Self::Backward => [walk(2).and(state), walk(2).and(state), gradients],
            Self::BackwardFrozen => [walk(2).and(state), walk(1 + recomputed).and(state), gradients],
            Self::Mark => [tensors(0), Traffic { flags: 1, ..Traffic::default() }, bits(1)],
        }
    }

    /// How many sums and copies of a tensor read and write the same bytes: everything written is a copy, which reads as
    /// much, and everything else that is read is a sum. Bits and flags are their part of a tensor.
    fn limit_counts(self, configuration: &Configuration, channels: u32) -> (f64, f64) {
        let [reduced, mapped, written] = self.traffic(configuration);
        let [read, written] = [reduced.and(mapped), written].map(|traffic| traffic.in_tensors(configuration, channels));
        // Where less is read than written there is no sum to take away: half a copy's bytes are written ones.
        if read < written { (0.0, (read + written) / 2.0) } else { (read - written, written) }
    }

    /// The time that sums and copies of the tensor would take in place of the operation.
    pub fn limit(self, configuration: &Configuration, channels: u32, copy: f64, sum: f64) -> f64 {
        let (sums, copies) = self.limit_counts(configuration, channels);
        sums * sum + copies * copy
    }

    /// The limit in words; only that of marking depends on the channels.
    pub fn limit_formula(self, configuration: &Configuration, channels: u32) -> String {
        let term = |count: f64, one: &str, many: &str| match (count * 100.0).round() / 100.0 {
            0.0 => None,
            1.0 => Some(one.to_string()),
            count => Some(format!("{count} {many}")),
        };
        let (sums, copies) = self.limit_counts(configuration, channels);
        [term(sums, "sum", "sums"), term(copies, "copy", "copies")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" + ")
    }

    /// Bytes if every input were read once and every output written once, vectors included, the workspace not.
    pub fn ideal_bytes(self, configuration: &Configuration, plan: &Plan) -> u64 {
        let [reduced, mapped, written] = self.traffic(configuration);
        reduced.or(mapped).and(written).bytes(plan) + self.small_bytes(configuration, plan)
    }

    /// Bytes that a strategy reads and writes: all but the resident one read their tensors once to reduce them and once
    /// more to apply what came out. The workspace is not counted.
    pub fn moved_bytes(self, configuration: &Configuration, plan: &Plan, dispatches: usize) -> u64 {
        if let Some(Strategy::Resident(_)) = self.taken(configuration, plan, dispatches) {
            return self.ideal_bytes(configuration, plan);
        }
        let [reduced, mapped, written] = self.traffic(configuration);
        reduced.and(mapped).and(written).bytes(plan) + self.small_bytes(configuration, plan)
    }

    /// Bytes of vectors, saved statistics and other records, each read and each write once.
    fn small_bytes(self, configuration: &Configuration, plan: &Plan) -> u64 {
        let recomputed = u64::from(configuration.derivative() == Some(Source::Recompute));
        let renormalization = if configuration.renormalized { plan.renormalization_size() } else { 0 };
        match self {
            // gamma, beta, the running statistics twice
            Self::Training => 6 * plan.vector_size() + plan.saved_size() + renormalization,
            // gamma, beta, mean, variance
            Self::Inference => 4 * plan.vector_size(),
            // gamma, dgamma, dbeta, beta where t is computed again
            Self::Backward => (3 + recomputed) * plan.vector_size() + plan.saved_size() + renormalization,
            // gamma, mean, variance, dgamma, dbeta, beta where t is computed again
            Self::BackwardFrozen => (5 + recomputed) * plan.vector_size(),
            // What the segments have of valid elements.
            Self::Mark => plan.valid_size() - plan.mask_size(),
        }
    }

    /// Whether the operation goes through coefficients that a small dispatch prepares, which is always split.
    const fn is_prepared(self, configuration: &Configuration) -> bool {
        match self {
            Self::Training | Self::Backward => configuration.padded || configuration.renormalized,
            Self::BackwardFrozen => configuration.padded,
            Self::Inference | Self::Mark => false,
        }
    }

    /// The plan's strategy, if that is how the operation was bound: what is fused may need more bindings than kernels of
    /// one dispatch have, which makes it a split.
    fn taken(self, configuration: &Configuration, plan: &Plan, dispatches: usize) -> Option<Strategy> {
        if self.is_prepared(configuration) {
            return None;
        }
        // One more brings together what segments share; frozen statistics are those of the whole batch.
        let shares = plan.segmentation().segments() > 1 && self != Self::BackwardFrozen;
        let splits = dispatches > 1 + usize::from(shares);
        plan.strategy(self.planned()?).filter(|strategy| matches!(strategy, Strategy::Split { .. }) == splits)
    }

    /// The strategy by which the operation is carried out in a number of dispatches; `in_full` tells the walks of what
    /// is prepared, where the plan does.
    pub fn strategy(self, configuration: &Configuration, plan: &Plan, dispatches: usize, in_full: bool) -> String {
        match self {
            Self::Mark => "flags".into(),
            Self::Inference => plan.inference_family().map_or_else(|| "none".into(), |family| family.to_string()),
            _ if self.is_prepared(configuration) => match self.planned().and_then(|planned| plan.strategy(planned)) {
                Some(Strategy::Split { reduction, elementwise }) if in_full => {
                    format!("prepared {reduction}/{elementwise}")
                }
                _ => "prepared".into(),
            },
            // Plans do not tell which walks they would split into.
            Self::Training | Self::Backward | Self::BackwardFrozen => self
                .taken(configuration, plan, dispatches)
                .map_or_else(|| "split".into(), |strategy| strategy.to_string()),
        }
    }

    /// A pin for every strategy that serves the shape, the planner's choice first. Where it is prepared, those of one
    /// dispatch are among them, for the library to refuse.
    pub fn strategies(
        self,
        bn: &BatchNorm,
        shape: &Shape,
        configuration: &Configuration,
    ) -> Result<Vec<Strategies>, Error> {
        // Frozen statistics of segments that share them take no pin.
        let shares = bn.plan(shape)?.segmentation().segments() > 1;
        if self == Self::Mark || (self == Self::BackwardFrozen && shares) {
            return Ok(vec![Strategies::default()]);
        }
        let Some(operation) = self.planned() else {
            let families = [Family::Rows, Family::Columns, Family::Quads].map(Some);
            let chosen = bn.plan(shape)?.inference_family();
            let others = families.into_iter().filter(|family| *family != chosen);
            let pins = std::iter::once(chosen).chain(others);
            let pins = pins.map(|inference| Strategies { inference, ..Strategies::default() });
            return Ok(pins.filter(|pin| bn.plan_with(shape, *pin).is_ok()).collect());
        };
        let strategies = Plan::strategies(bn.descriptor(), shape, bn.kernels().profile(), operation)?;
        let pin = |strategy| match self {
            Self::Training => Strategies { training: Some(strategy), ..Strategies::default() },
            _ => Strategies { backward: Some(strategy), ..Strategies::default() },
        };
        if self.is_prepared(configuration) {
            return Ok(std::iter::once(Strategies::default()).chain(strategies.into_iter().map(pin)).collect());
        }
        if !self.splits(configuration) {
            return Ok(strategies.into_iter().map(pin).collect());
        }
        let splits = strategies.into_iter().filter(|strategy| matches!(strategy, Strategy::Split { .. }));
        Ok(std::iter::once(Strategies::default()).chain(splits.map(pin)).collect())
    }

    /// Whether what is fused leaves no strategy but a split.
    fn splits(self, configuration: &Configuration) -> bool {
        let derivative = configuration.derivative();
        let (mask, output) = (derivative == Some(Source::Mask), derivative == Some(Source::Output));
        configuration.residual || mask || (output && self != Self::Training)
    }

    /// What the planner calls the operation; `None` where there is nothing to reduce.
    const fn planned(self) -> Option<Planned> {
        match self {
            Self::Training => Some(Planned::Training),
            Self::Inference | Self::Mark => None,
            Self::Backward => Some(Planned::Backward),
            Self::BackwardFrozen => Some(Planned::FrozenBackward),
        }
    }

    /// Binds the operation to a set of buffers.
    pub fn bind<'a>(self, bn: &BatchNorm, plan: &Plan, buffers: &'a Buffers) -> Result<Bound, Error> {
        let (tensor_size, vector_size) = (plan.tensor_size(), plan.vector_size());
        let tensor = move |buffer| wgpu::Buffer::slice(buffer, ..tensor_size);
        let vector = move |buffer| wgpu::Buffer::slice(buffer, ..vector_size);
        let (input, output) = (tensor(&buffers.input), tensor(&buffers.output));
        let output_gradient = tensor(&buffers.output_gradient);
        let residual = buffers.residual.as_ref().map(tensor);
        let activation_mask = buffers.mask.as_ref().map(|mask| mask.slice(..plan.mask_size()));
        let (gamma, beta) = (Some(vector(&buffers.gamma)), Some(vector(&buffers.beta)));
        let (mean, variance) = (vector(&buffers.frozen_mean), vector(&buffers.frozen_variance));
        let activation = buffers.state(plan);
        let input_gradient = Some(Gradient::Overwrite(output));
        let residual_gradient = buffers.residual_gradient.as_ref().map(tensor).map(Gradient::Overwrite);
        let gamma_gradient = Some(Gradient::Overwrite(vector(&buffers.gamma_gradient)));
        let beta_gradient = Some(Gradient::Overwrite(vector(&buffers.beta_gradient)));
        let saved = Some(buffers.saved.slice(..plan.saved_size()));
        let valid = buffers.padding.as_ref().map(|padding| padding.valid.slice(..plan.valid_size()));
        let corrections = |buffers: &'a Renormalizing| buffers.saved.slice(..plan.renormalization_size());
        let workspace = buffers.workspace.slice(..);
        match self {
            Self::Training => {
                let running = RunningStatistics {
                    mean: vector(&buffers.running_mean),
                    variance: vector(&buffers.running_variance),
                    batches_tracked: None,
                };
                let renormalization = buffers.renormalizing.as_ref().map(|renormalizing| Renormalization {
                    limits: renormalizing.limits.slice(..8),
                    saved: corrections(renormalizing),
                });
                let buffers = TrainingBuffers {
                    residual,
                    activation_mask,
                    gamma,
                    beta,
                    running: Some(running),
                    saved,
                    valid,
                    renormalization,
                    ..TrainingBuffers::new(input, output, workspace)
                };
                bn.bind_training(plan, &buffers).map(Bound::Training)
            }
            Self::Inference => {
                let new = InferenceBuffers::new(input, output, mean, variance);
                let buffers = InferenceBuffers { residual, activation_mask, gamma, beta, valid, ..new };
                bn.bind_inference(plan, &buffers).map(Bound::Other)
            }
            Self::Backward => {
                let buffers = BackwardBuffers {
                    gamma,
                    beta,
                    activation,
                    saved,
                    valid,
                    renormalization: buffers.renormalizing.as_ref().map(corrections),
                    input_gradient,
                    residual_gradient,
                    gamma_gradient,
                    beta_gradient,
                    ..BackwardBuffers::new(input, output_gradient, workspace)
                };
                bn.bind_backward(plan, &buffers).map(Bound::Other)
            }
            Self::BackwardFrozen => {
                let buffers = FrozenBackwardBuffers {
                    input: Some(input),
                    gamma,
                    beta,
                    activation,
                    valid,
                    input_gradient,
                    residual_gradient,
                    gamma_gradient,
                    beta_gradient,
                    ..FrozenBackwardBuffers::new(output_gradient, mean, variance, workspace)
                };
                bn.bind_backward_frozen(plan, &buffers).map(Bound::Other)
            }
            Self::Mark => {
                let Some(Padding { flags, valid }) = &buffers.padding else {
                    unreachable!("nothing is marked without padding, see `Operation::of`");
                };
                let source = ValidSource::Flags(flags.slice(..plan.positions_size()));
                let buffers = ValidBuffers { source, valid: valid.slice(..plan.valid_size()) };
                bn.bind_valid(plan, &buffers).map(Bound::Other)
            }
        }
    }
}

/// What is read or written.
#[derive(Clone, Copy, Default)]
struct Traffic {
    tensors: u64,
    /// A bit an element: activation masks, and what is valid.
    bits: u64,
    /// A `u32` a position.
    flags: u64,
}

impl Traffic {
    const fn and(self, other: Self) -> Self {
        let (tensors, bits) = (self.tensors + other.tensors, self.bits + other.bits);
        Self { tensors, bits, flags: self.flags + other.flags }
    }

    /// Both, where one has all that the other has.
    fn or(self, other: Self) -> Self {
        let (tensors, bits) = (self.tensors.max(other.tensors), self.bits.max(other.bits));
        Self { tensors, bits, flags: self.flags.max(other.flags) }
    }

    const fn bytes(self, plan: &Plan) -> u64 {
        self.tensors * plan.tensor_size() + self.bits * plan.mask_size() + self.flags * plan.positions_size()
    }

    fn in_tensors(self, configuration: &Configuration, channels: u32) -> f64 {
        let size = configuration.element.size() as f64;
        self.tensors as f64 + self.bits as f64 / (8.0 * size) + self.flags as f64 * 4.0 / (size * f64::from(channels))
    }
}

/// An operation bound to a set of buffers.
pub enum Bound {
    Training(TrainingStep),
    Other(Step),
}

impl Bound {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Training(step) => step.record(pass),
            Self::Other(step) => step.record(pass),
        }
    }

    pub const fn dispatch_count(&self) -> usize {
        match self {
            Self::Training(step) => step.dispatch_count(),
            Self::Other(step) => step.dispatch_count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use wgpu_batch_norm::{AdapterClass, DeviceProfile, Layout};

    use super::*;
    use crate::configuration::{Activation, Segments};

    fn plan(configuration: &Configuration) -> Plan {
        let descriptor = configuration.descriptor(64, Layout::ChannelsFirst);
        let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
        let shape = configuration.shape([32, 64, 56, 56], Layout::ChannelsFirst).unwrap();
        Plan::new(&descriptor, &shape, &profile).unwrap()
    }

    #[test]
    fn ideal_bytes_count_each_tensor_once_and_moved_bytes_as_often_as_the_limit() {
        let (tensor, channels) = (32 * 64 * 56 * 56 * 4, 64);
        let bytes = |operation: Operation, configuration: &Configuration| {
            let plan = plan(configuration);
            (operation.ideal_bytes(configuration, &plan), operation.moved_bytes(configuration, &plan, 2))
        };
        let with = |tensors: u64, moved: u64, vectors: u64| {
            (tensors * tensor + vectors * channels * 4, moved * tensor + vectors * channels * 4)
        };
        let plain = Configuration::default();
        assert_eq!(bytes(Operation::Training, &plain), with(2, 3, 6 + 4));
        assert_eq!(bytes(Operation::Inference, &plain), with(2, 2, 4));
        assert_eq!(bytes(Operation::Backward, &plain), with(3, 5, 3 + 4));
        assert_eq!(bytes(Operation::BackwardFrozen, &plain), with(3, 4, 5));
        let fused = fused(Source::Recompute);
        assert_eq!(bytes(Operation::Training, &fused), with(3, 4, 6 + 4));
        assert_eq!(bytes(Operation::Inference, &fused), with(3, 3, 4));
        assert_eq!(bytes(Operation::Backward, &fused), with(5, 8, 4 + 4));
        assert_eq!(bytes(Operation::BackwardFrozen, &fused), with(5, 8, 6));
    }

    #[test]
    fn padding_is_read_by_every_walk_and_records_are_those_of_instances() {
        let (tensor, bits, flags, vector) = (32 * 64 * 56 * 56 * 4, 32 * 64 * 56 * 56 / 8, 32 * 56 * 56 * 4, 64 * 4);
        let bytes = |operation: Operation, configuration: &Configuration| {
            let plan = plan(configuration);
            (operation.ideal_bytes(configuration, &plan), operation.moved_bytes(configuration, &plan, 3))
        };
        let both = |bytes: u64| (bytes, bytes);
        let padded = Configuration { padded: true, ..Configuration::default() };
        let with = |read_once: u64, walks: u64, tensors: [u64; 2], vectors: u64| {
            let small = vectors * vector;
            (tensors[0] * tensor + read_once * bits + small, tensors[1] * tensor + walks * bits + small)
        };
        assert_eq!(bytes(Operation::Training, &padded), with(1, 2, [2, 3], 6 + 4));
        assert_eq!(bytes(Operation::Inference, &padded), with(1, 1, [2, 2], 4));
        assert_eq!(bytes(Operation::Backward, &padded), with(1, 2, [3, 5], 3 + 4));
        assert_eq!(bytes(Operation::BackwardFrozen, &padded), with(1, 2, [3, 4], 5));
        assert_eq!(bytes(Operation::Mark, &padded), both(flags + bits + flags / 32 + 16));
        // A mask is one more tensor of bits.
        let masked = Configuration { padded: true, ..fused(Source::Mask) };
        assert_eq!(bytes(Operation::Training, &masked), with(2, 3, [3, 4], 6 + 4));
        assert_eq!(bytes(Operation::Backward, &masked), with(2, 4, [4, 6], 3 + 4));

        let renormalized = Configuration { renormalized: true, ..Configuration::default() };
        assert_eq!(bytes(Operation::Training, &renormalized), with(0, 0, [2, 3], 6 + 4 + 2));
        assert_eq!(bytes(Operation::Backward, &renormalized), with(0, 0, [3, 5], 3 + 4 + 2));
        assert_eq!(bytes(Operation::BackwardFrozen, &renormalized), with(0, 0, [3, 4], 5));

        let segments = Configuration { segments: Some(Segments::SubBatches(4)), ..padded };
        assert_eq!(bytes(Operation::Training, &segments), with(1, 2, [2, 3], 6 + 4 * 4));
        assert_eq!(bytes(Operation::Inference, &segments), with(1, 1, [2, 2], 4));
        assert_eq!(bytes(Operation::Backward, &segments), with(1, 2, [3, 5], 3 + 4 * 4));
        // A record for each segment, and one for the whole batch.
        assert_eq!(bytes(Operation::Mark, &segments), both(flags + bits + flags / 32 + 5 * 16));
    }

    #[test]
    fn the_strategy_is_told_whatever_segments_add() {
        let plain = Configuration::default();
        let each = Configuration { segments: Some(Segments::Each), ..plain };
        let strategy = |operation: Operation, configuration: &Configuration, dispatches: usize| {
            operation.strategy(configuration, &plan(configuration), dispatches, false)
        };
        let planned = plan(&each).strategy(Planned::Training).unwrap();
        assert!(!matches!(planned, Strategy::Split { .. }), "{planned}");
        // The second dispatch averages.
        assert_eq!(strategy(Operation::Training, &each, 2), planned.to_string());
        assert_eq!(strategy(Operation::Training, &each, 3), "split");
        let padded = Configuration { padded: true, ..plain };
        let renormalized = Configuration { renormalized: true, ..plain };
        for (operation, padded_is, renormalized_is) in [
            (Operation::Training, true, true),
            (Operation::Inference, false, false),
            (Operation::Backward, true, true),
            (Operation::BackwardFrozen, true, false),
        ] {
            assert_eq!(strategy(operation, &padded, 3) == "prepared", padded_is, "{operation:?}");
            assert_eq!(strategy(operation, &renormalized, 3) == "prepared", renormalized_is, "{operation:?}");
        }
    }

    fn fused(source: Source) -> Configuration {
        Configuration { activation: Activation::Relu, residual: true, source, ..Configuration::default() }
    }

    #[test]
    fn limits_are_sums_and_copies() {
        let formulas = |configuration: Configuration| {
            Operation::ALL.map(|operation| {
                let formula = operation.limit_formula(&configuration, 64);
                (operation.limit(&configuration, 64, 32.0, 16.0), formula)
            })
        };
        let expected = |expected: [(f64, &str); 4]| expected.map(|(time, formula)| (time, formula.to_string()));
        assert_eq!(
            formulas(Configuration::default()),
            expected([(48.0, "sum + copy"), (32.0, "copy"), (80.0, "3 sums + copy"), (64.0, "2 sums + copy")])
        );
        let both = (128.0, "4 sums + 2 copies");
        assert_eq!(
            formulas(fused(Source::Recompute)),
            expected([(64.0, "2 sums + copy"), (48.0, "sum + copy"), both, both])
        );
        // x, g, y; then all of them again, or g and y.
        assert_eq!(
            formulas(fused(Source::Output))[2..],
            expected([both, both, both, (112.0, "3 sums + 2 copies")])[2..]
        );
        // A mask is a thirty-second of a tensor.
        assert_eq!(
            formulas(fused(Source::Mask)),
            expected([
                (64.5, "1.97 sums + 1.03 copies"),
                (48.5, "0.97 sums + 1.03 copies"),
                (97.0, "2.06 sums + 2 copies"),
                (81.0, "1.06 sums + 2 copies"),
            ])
        );
        // So is what is valid, which every walk reads.
        let padded = Configuration { padded: true, ..Configuration::default() };
        assert_eq!(
            formulas(padded),
            expected([
                (49.0, "1.06 sums + copy"),
                (32.5, "0.03 sums + copy"),
                (81.0, "3.06 sums + copy"),
                (65.0, "2.06 sums + copy"),
            ])
        );
        // Marking reads a quarter of a tensor, for four channels, or an eighth, and writes a thirty-second.
        let mark = |channels: u32| {
            (Operation::Mark.limit(&padded, channels, 32.0, 16.0), Operation::Mark.limit_formula(&padded, channels))
        };
        assert_eq!(mark(4), (4.5, "0.22 sums + 0.03 copies".into()));
        assert_eq!(mark(8), (2.5, "0.09 sums + 0.03 copies".into()));
        // More written than read.
        assert_eq!(mark(64), (0.75, "0.02 copies".into()));
    }
}
