//! The operations: what they are called, what bytes they must and do move, and how they are bound.

use clap::ValueEnum;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, Error, Family, FrozenBackwardBuffers, Gradient, InferenceBuffers, Operation as Planned,
    Plan, RunningStatistics, Shape, Step, Strategies, Strategy, TrainingBuffers, TrainingStep,
};

use crate::buffers::Buffers;
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
}

impl Operation {
    pub const ALL: [Self; 4] = [Self::Training, Self::Inference, Self::Backward, Self::BackwardFrozen];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Inference => "inference",
            Self::Backward => "backward",
            Self::BackwardFrozen => "backward_frozen",
        }
    }

    /// What the reduction reads, what the map reads, and what is written.
    ///
    /// An activation's derivative is taken in both walks of a backward. What a kernel reads without a use for it is not
    /// counted.
    fn traffic(self, configuration: &Configuration) -> [Traffic; 3] {
        let tensors = |tensors| Traffic { tensors, masks: 0 };
        let residual = u64::from(configuration.residual);
        let derivative = configuration.derivative();
        let masks = u64::from(derivative == Some(Source::Mask));
        // What the backwards read to know the derivative, x apart.
        let state = match derivative {
            None => tensors(0),
            Some(Source::Recompute) => tensors(residual),
            Some(Source::Output) => tensors(1),
            Some(Source::Mask) => Traffic { tensors: 0, masks: 1 },
        };
        let recomputed = u64::from(derivative == Some(Source::Recompute));
        let (forward, gradients) = (Traffic { tensors: 1, masks }, tensors(1 + residual));
        match self {
            Self::Training => [tensors(1), tensors(1 + residual), forward],
            Self::Inference => [tensors(0), tensors(1 + residual), forward],
            Self::Backward => [tensors(2).and(state), tensors(2).and(state), gradients],
            Self::BackwardFrozen => [tensors(2).and(state), tensors(1 + recomputed).and(state), gradients],
        }
    }

    /// How many sums and copies of a tensor read and write the same bytes: everything written is a copy, which reads as
    /// much, and everything else that is read is a sum. A mask is its part of a tensor.
    fn limit_counts(self, configuration: &Configuration) -> (f64, f64) {
        let [reduced, mapped, written] = self.traffic(configuration);
        let written = written.in_tensors(configuration);
        (reduced.and(mapped).in_tensors(configuration) - written, written)
    }

    /// The time that sums and copies of the tensor would take in place of the operation.
    pub fn limit(self, configuration: &Configuration, copy: f64, sum: f64) -> f64 {
        let (sums, copies) = self.limit_counts(configuration);
        sums * sum + copies * copy
    }

    /// The limit in words.
    pub fn limit_formula(self, configuration: &Configuration) -> String {
        let term = |count: f64, one: &str, many: &str| match (count * 100.0).round() / 100.0 {
            0.0 => None,
            1.0 => Some(one.to_string()),
            count => Some(format!("{count} {many}")),
        };
        let (sums, copies) = self.limit_counts(configuration);
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
        if let Some(Strategy::Resident(_)) = self.taken(plan, dispatches) {
            return self.ideal_bytes(configuration, plan);
        }
        let [reduced, mapped, written] = self.traffic(configuration);
        reduced.and(mapped).and(written).bytes(plan) + self.small_bytes(configuration, plan)
    }

    /// Bytes of vectors and saved statistics, each read and each write once.
    fn small_bytes(self, configuration: &Configuration, plan: &Plan) -> u64 {
        let recomputed = u64::from(configuration.derivative() == Some(Source::Recompute));
        match self {
            // gamma, beta, the running statistics twice
            Self::Training => 6 * plan.vector_size() + plan.saved_size(),
            // gamma, beta, mean, variance
            Self::Inference => 4 * plan.vector_size(),
            // gamma, dgamma, dbeta, beta where t is computed again
            Self::Backward => (3 + recomputed) * plan.vector_size() + plan.saved_size(),
            // gamma, mean, variance, dgamma, dbeta, beta where t is computed again
            Self::BackwardFrozen => (5 + recomputed) * plan.vector_size(),
        }
    }

    /// The plan's strategy, if that is how the operation was bound: what is fused may need more bindings than kernels of
    /// one dispatch have, which makes it a split.
    fn taken(self, plan: &Plan, dispatches: usize) -> Option<Strategy> {
        let split = |strategy: &Strategy| matches!(strategy, Strategy::Split { .. });
        plan.strategy(self.planned()?).filter(|strategy| split(strategy) == (dispatches > 1))
    }

    /// The strategy by which the operation is carried out in a number of dispatches.
    pub fn strategy(self, plan: &Plan, dispatches: usize) -> String {
        match self.planned() {
            // Plans do not tell which walks they would split into.
            Some(_) => self.taken(plan, dispatches).map_or_else(|| "split".into(), |strategy| strategy.to_string()),
            None => plan.inference_family().map_or_else(|| "none".into(), |family| family.to_string()),
        }
    }

    /// A pin for every strategy that serves the shape, the planner's choice first.
    pub fn strategies(
        self,
        bn: &BatchNorm,
        shape: &Shape,
        configuration: &Configuration,
    ) -> Result<Vec<Strategies>, Error> {
        let Some(operation) = self.planned() else {
            let families = [Family::Rows, Family::Columns].map(Some);
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
            Self::Inference => None,
            Self::Backward => Some(Planned::Backward),
            Self::BackwardFrozen => Some(Planned::FrozenBackward),
        }
    }

    /// Binds the operation to a set of buffers.
    pub fn bind(self, bn: &BatchNorm, plan: &Plan, buffers: &Buffers) -> Result<Bound, Error> {
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
        let workspace = buffers.workspace.slice(..);
        match self {
            Self::Training => {
                let running = RunningStatistics {
                    mean: vector(&buffers.running_mean),
                    variance: vector(&buffers.running_variance),
                    batches_tracked: None,
                };
                let buffers = TrainingBuffers {
                    residual,
                    activation_mask,
                    gamma,
                    beta,
                    running: Some(running),
                    saved,
                    ..TrainingBuffers::new(input, output, workspace)
                };
                bn.bind_training(plan, &buffers).map(Bound::Training)
            }
            Self::Inference => {
                let new = InferenceBuffers::new(input, output, mean, variance);
                let buffers = InferenceBuffers { residual, activation_mask, gamma, beta, ..new };
                bn.bind_inference(plan, &buffers).map(Bound::Other)
            }
            Self::Backward => {
                let buffers = BackwardBuffers {
                    gamma,
                    beta,
                    activation,
                    saved,
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
                    input_gradient,
                    residual_gradient,
                    gamma_gradient,
                    beta_gradient,
                    ..FrozenBackwardBuffers::new(output_gradient, mean, variance, workspace)
                };
                bn.bind_backward_frozen(plan, &buffers).map(Bound::Other)
            }
        }
    }
}

/// Tensors and activation masks, read or written.
#[derive(Clone, Copy)]
struct Traffic {
    tensors: u64,
    masks: u64,
}

impl Traffic {
    const fn and(self, other: Self) -> Self {
        Self { tensors: self.tensors + other.tensors, masks: self.masks + other.masks }
    }

    /// Both, where one has all that the other has.
    fn or(self, other: Self) -> Self {
        Self { tensors: self.tensors.max(other.tensors), masks: self.masks.max(other.masks) }
    }

    const fn bytes(self, plan: &Plan) -> u64 {
        self.tensors * plan.tensor_size() + self.masks * plan.mask_size()
    }

    fn in_tensors(self, configuration: &Configuration) -> f64 {
        let bits = 8 * configuration.element.size();
        self.tensors as f64 + self.masks as f64 / bits as f64
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
    use wgpu_batch_norm::{AdapterClass, BatchNormDescriptor, DeviceProfile, Shape};

    use super::*;
    use crate::configuration::Activation;

    fn plan() -> Plan {
        let descriptor = BatchNormDescriptor { channels: 64, ..Default::default() };
        let profile = DeviceProfile::webgpu(AdapterClass::Discrete);
        Plan::new(&descriptor, &Shape::new(&[32, 64, 56, 56]).unwrap(), &profile).unwrap()
    }

    #[test]
    fn ideal_bytes_count_each_tensor_once_and_moved_bytes_as_often_as_the_limit() {
        let (tensor, channels) = (32 * 64 * 56 * 56 * 4, 64);
        let bytes = |operation: Operation, configuration: &Configuration| {
            let plan = plan();
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

    fn fused(source: Source) -> Configuration {
        Configuration { activation: Activation::Relu, residual: true, source, ..Configuration::default() }
    }

    #[test]
    fn limits_are_sums_and_copies() {
        let formulas = |configuration: Configuration| {
            Operation::ALL.map(|operation| {
                let formula = operation.limit_formula(&configuration);
                (operation.limit(&configuration, 32.0, 16.0), formula)
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
    }
}
