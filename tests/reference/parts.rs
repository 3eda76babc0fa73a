//! A problem in segments and with padding, and what is left of each segment as a plain batch of its own.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, FrozenBackwardBuffers, Gradient, InferenceBuffers, Plan,
    Renormalization, RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, BatchNormDescriptor, ChannelHealth, ChannelRenormalization, ChannelStatistics, Convention, Error,
    Layout, Momentum, OneSamplePolicy, SegmentRunning, Shape,
};

use super::case::Gradients;

/// A shape in segments, and the segment of the element at an index of each dimension.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    pub dims: &'static [usize],
    pub layout: Layout,
    pub cut: fn(Shape) -> Result<Shape, Error>,
    pub segment_of: fn(&[usize]) -> usize,
}

const fn cut(
    dims: &'static [usize],
    layout: Layout,
    cut: fn(Shape) -> Result<Shape, Error>,
    segment_of: fn(&[usize]) -> usize,
) -> Cut {
    Cut { dims, layout, cut, segment_of }
}

/// The whole batch, ghost batches, samples and steps, in every layout that has them.
pub(crate) const CUTS: [Cut; 11] = [
    cut(&[2, 3, 5], Layout::ChannelsFirst, Ok, |_| 0),
    cut(&[3, 3, 2], Layout::ChannelsLast, Ok, |_| 0),
    cut(&[8, 3], Layout::ChannelsFirst, |shape| shape.with_sub_batches(2), |at| at[0] / 4),
    cut(&[6, 2, 3], Layout::ChannelsFirst, |shape| shape.with_sub_batches(2), |at| at[0] / 3),
    cut(&[6, 3, 2], Layout::ChannelsLast, |shape| shape.with_sub_batches(3), |at| at[0] / 2),
    cut(&[3, 2, 2, 3], Layout::ChannelsFirst, |shape| shape.with_sub_batches(3), |at| at[0]),
    cut(&[3, 5, 2], Layout::ChannelsLast, |shape| shape.with_segments_along(0), |at| at[0]),
    cut(&[5, 3, 2], Layout::ChannelsLast, |shape| shape.with_segments_along(1), |at| at[1]),
    cut(&[5, 2, 4], Layout::ChannelsFirst, |shape| shape.with_segments_along(2), |at| at[2]),
    cut(&[3, 2, 3, 2], Layout::ChannelsFirst, |shape| shape.with_segments_along(2), |at| at[2]),
    cut(&[3, 2, 3, 2], Layout::ChannelsLast, |shape| shape.with_segments_along(2), |at| at[2]),
];

#[derive(Clone)]
pub(crate) struct Parts {
    pub cut: Cut,
    pub bn: BatchNorm,
    pub plan: Plan,
    pub valid: Option<Vec<bool>>,
    pub input: Vec<f64>,
    pub output_gradient: Vec<f64>,
    pub residual: Vec<f64>,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Running {
    pub mean: Vec<f64>,
    pub variance: Vec<f64>,
    pub tracked: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trained {
    pub output: Vec<f64>,
    /// A flag an element; empty for an activation that has no use for it.
    pub mask: Vec<bool>,
    pub saved: Vec<ChannelStatistics>,
    pub health: Vec<ChannelHealth>,
    pub running: Running,
}

pub(crate) fn uniform(rng: &mut StdRng, count: usize, low: f64, high: f64) -> Vec<f64> {
    (0..count).map(|_| rng.random_range(low..high)).collect()
}

impl Parts {
    /// Random values, and padding with a probability.
    pub(crate) fn random(
        cut: Cut,
        convention: Convention,
        activation: Activation,
        padding: Option<f64>,
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (layout, channels) = (cut.layout, cut.dims[cut.layout.channel_axis(cut.dims.len())]);
        let descriptor =
            BatchNormDescriptor { channels: channels as u32, layout, convention, activation, ..Default::default() };
        let bn = BatchNorm::new(&descriptor).unwrap();
        let plan = bn.plan(&(cut.cut)(Shape::new(cut.dims).unwrap()).unwrap()).unwrap();
        let problem = plan.problem();
        let elements = problem.elements() as usize;
        Self {
            cut,
            bn,
            plan,
            valid: padding.map(|share| (0..problem.count()).map(|_| !rng.random_bool(share)).collect()),
            input: uniform(&mut rng, elements, -2.0, 3.0),
            output_gradient: uniform(&mut rng, elements, -1.0, 1.0),
            residual: uniform(&mut rng, elements, -1.0, 1.0),
            gamma: uniform(&mut rng, channels, -1.5, 1.5),
            beta: uniform(&mut rng, channels, -1.0, 1.0),
        }
    }

    pub(crate) fn convention(&self) -> Convention {
        self.bn.descriptor().convention
    }

    pub(crate) fn activation(&self) -> Activation {
        self.bn.descriptor().activation
    }

    pub(crate) fn channels(&self) -> usize {
        self.gamma.len()
    }

    pub(crate) fn segments(&self) -> usize {
        self.plan.segmentation().segments() as usize
    }

    /// Where an instance's statistics stand.
    pub(crate) fn instance(&self, segment: usize, channel: usize) -> usize {
        self.plan.segmentation().instance(segment as u64, channel as u32) as usize
    }

    pub(crate) fn instances(&self) -> usize {
        self.plan.segmentation().instances() as usize
    }

    /// Random running statistics, as many as the convention has.
    pub(crate) fn running(&self, tracked: u32, seed: u64) -> Running {
        let separate = self.convention().segment_running == SegmentRunning::Separate;
        let count = if separate { self.instances() } else { self.channels() };
        let mut rng = StdRng::seed_from_u64(seed);
        Running { mean: uniform(&mut rng, count, -1.0, 1.0), variance: uniform(&mut rng, count, 0.3, 2.0), tracked }
    }

    /// The indices of an element along each dimension, and its position.
    fn locate(&self, element: usize) -> (Vec<usize>, usize) {
        let (dims, axis) = (self.cut.dims, self.cut.layout.channel_axis(self.cut.dims.len()));
        let mut rest = element;
        let mut at = vec![0; dims.len()];
        for (axis, dim) in dims.iter().enumerate().rev() {
            at[axis] = rest % dim;
            rest /= dim;
        }
        let others = (0..dims.len()).filter(|&other| other != axis);
        let position = others.fold(0, |position, other| position * dims[other] + at[other]);
        (at, position)
    }

    pub(crate) fn is_valid(&self, element: usize) -> bool {
        self.valid.as_ref().is_none_or(|valid| valid[self.locate(element).1])
    }

    /// A segment without its padding, as rows of a value a channel: where each stands in the tensor.
    pub(crate) fn rows(&self, segment: usize) -> Vec<usize> {
        let axis = self.cut.layout.channel_axis(self.cut.dims.len());
        let mut rows = Vec::new();
        for element in 0..self.input.len() {
            let (at, position) = self.locate(element);
            if (self.cut.segment_of)(&at) == segment && self.is_valid(element) {
                rows.push((position, at[axis], element));
            }
        }
        rows.sort_unstable();
        rows.into_iter().map(|(_, _, element)| element).collect()
    }

    /// The elements of an instance that are no padding.
    pub(crate) fn elements(&self, segment: usize, channel: usize) -> Vec<usize> {
        self.rows(segment).into_iter().skip(channel).step_by(self.channels()).collect()
    }

    /// A batch norm for segments by themselves: with another policy for one sample, and another momentum.
    fn plain(&self, momentum: Momentum) -> BatchNorm {
        let one_sample = match self.convention().one_sample {
            OneSamplePolicy::Error => OneSamplePolicy::SkipRunningUpdate,
            policy => policy,
        };
        let convention =
            Convention { momentum, one_sample, segment_running: SegmentRunning::InTurn, ..self.convention() };
        let layout = Layout::ChannelsLast;
        BatchNorm::new(&BatchNormDescriptor { convention, layout, ..self.bn.descriptor().clone() }).unwrap()
    }

    pub(crate) fn train(&self, running: Running) -> Trained {
        self.train_renormalized(running, None)
    }

    pub(crate) fn train_renormalized(
        &self,
        mut running: Running,
        renormalization: Option<([f32; 2], &mut [ChannelRenormalization])>,
    ) -> Trained {
        let mut output = vec![f64::NAN; self.input.len()];
        let words = if self.activation().is_piecewise_linear() { output.len().div_ceil(32) } else { 0 };
        let mut mask = vec![u32::MAX; words];
        let mut saved = vec![ChannelStatistics { pivot: f32::NAN, ..Default::default() }; self.instances()];
        let mut health = vec![ChannelHealth(77); self.instances()];
        self.bn
            .training(
                &self.plan,
                TrainingBuffers {
                    input: &self.input,
                    output: &mut output,
                    gamma: Some(&self.gamma),
                    beta: Some(&self.beta),
                    running: Some(RunningStatistics {
                        mean: &mut running.mean,
                        variance: &mut running.variance,
                        batches_tracked: Some(&mut running.tracked),
                    }),
                    saved: Some(&mut saved),
                    residual: Some(&self.residual),
                    activation_mask: (words > 0).then_some(&mut mask),
                    valid: self.valid.as_deref(),
                    health: Some(&mut health),
                    renormalization: renormalization.map(|(limits, saved)| Renormalization { limits, saved }),
                },
            )
            .unwrap();
        let bits = if words > 0 { output.len() } else { 0 };
        let mask = (0..bits).map(|index| mask[index / 32] >> (index % 32) & 1 == 1).collect();
        Trained { output, mask, saved, health, running }
    }

    /// The same by plain batches, a segment each.
    pub(crate) fn train_apart(&self, before: &Running) -> Trained {
        let policy = self.convention().segment_running;
        let averaged = policy == SegmentRunning::Averaged;
        // The whole weight on the new batch leaves its own statistics.
        let bn = self.plain(if averaged { Momentum::WeightOfNew(1.0) } else { self.convention().momentum });
        let elements = self.input.len();
        let bits = if self.activation().is_piecewise_linear() { elements } else { 0 };
        let empty = ChannelStatistics {
            inverse_deviation: (1.0 / self.convention().epsilon.sqrt()) as f32,
            ..Default::default()
        };
        let mut all = Trained {
            output: vec![0.0; elements],
            mask: vec![false; bits],
            saved: vec![empty; self.instances()],
            health: vec![ChannelHealth(ChannelHealth::ZERO_VARIANCE); self.instances()],
            running: before.clone(),
        };
        let mut sums = vec![([0.0; 2], 0.0); self.channels()];
        for segment in 0..self.segments() {
            let rows = self.rows(segment);
            let count = rows.len() / self.channels();
            if count == 0 {
                continue;
            }
            let plan = bn.plan(&Shape::flat(count, self.channels(), 1)).unwrap();
            let gather = |values: &[f64]| -> Vec<f64> { rows.iter().map(|&element| values[element]).collect() };
            let (input, residual) = (gather(&self.input), gather(&self.residual));
            let places: Vec<usize> = (0..self.channels()).map(|channel| self.instance(segment, channel)).collect();
            let recorded: Vec<usize> = match policy {
                SegmentRunning::Separate => places.clone(),
                _ => (0..self.channels()).collect(),
            };
            let (mut mean, mut variance): (Vec<f64>, Vec<f64>) =
                recorded.iter().map(|&place| (all.running.mean[place], all.running.variance[place])).unzip();
            let mut tracked = before.tracked + if policy == SegmentRunning::InTurn { segment as u32 } else { 0 };
            let (mut output, mut mask) = (vec![0.0; rows.len()], vec![0; rows.len().div_ceil(32)]);
            let mut saved = vec![ChannelStatistics::default(); self.channels()];
            let mut health = vec![ChannelHealth(77); self.channels()];
            bn.training(
                &plan,
                TrainingBuffers {
                    input: &input,
                    output: &mut output,
                    gamma: Some(&self.gamma),
                    beta: Some(&self.beta),
                    running: Some(RunningStatistics {
                        mean: &mut mean,
                        variance: &mut variance,
                        batches_tracked: Some(&mut tracked),
                    }),
                    saved: Some(&mut saved),
                    residual: Some(&residual),
                    activation_mask: (bits > 0).then_some(&mut mask),
                    health: Some(&mut health),
                    ..Default::default()
                },
            )
            .unwrap();
            for (row, &element) in rows.iter().enumerate() {
                all.output[element] = output[row];
                if bits > 0 {
                    all.mask[element] = mask[row / 32] >> (row % 32) & 1 == 1;
                }
            }
            for (channel, (&place, &recorded)) in places.iter().zip(&recorded).enumerate() {
                (all.saved[place], all.health[place]) = (saved[channel], health[channel]);
                if !averaged {
                    (all.running.mean[recorded], all.running.variance[recorded]) = (mean[channel], variance[channel]);
                } else if count > 1 || bn.descriptor().convention.one_sample == OneSamplePolicy::PopulationVariance {
                    let ([first, second], count) = sums[channel];
                    sums[channel] = ([first + mean[channel], second + variance[channel]], count + 1.0);
                }
            }
        }
        let weight = self.convention().momentum.weight_of_new(u64::from(before.tracked));
        for (channel, (sums, count)) in sums.into_iter().enumerate().filter(|(_, (_, count))| *count > 0.0) {
            let blend = |old: f64, sum: f64| (1.0 - weight) * old + weight * (sum / count);
            all.running.mean[channel] = blend(before.mean[channel], sums[0]);
            all.running.variance[channel] = blend(before.variance[channel], sums[1]);
        }
        all.running.tracked += if policy == SegmentRunning::InTurn { self.segments() as u32 } else { 1 };
        all
    }

    pub(crate) fn infer(&self, running: &Running) -> Vec<f64> {
        let mut output = vec![f64::NAN; self.input.len()];
        let buffers = InferenceBuffers {
            input: &self.input,
            output: &mut output,
            gamma: Some(&self.gamma),
            beta: Some(&self.beta),
            running_mean: &running.mean,
            running_variance: &running.variance,
            residual: Some(&self.residual),
            valid: self.valid.as_deref(),
            ..Default::default()
        };
        self.bn.inference(&self.plan, buffers).unwrap();
        output
    }

    /// The running statistics of a segment's channels.
    pub(crate) fn recorded(&self, running: &Running, segment: usize) -> Running {
        let separate = self.convention().segment_running == SegmentRunning::Separate;
        let place = |channel: usize| if separate { self.instance(segment, channel) } else { channel };
        let gather = |values: &[f64]| (0..self.channels()).map(|channel| values[place(channel)]).collect();
        Running { mean: gather(&running.mean), variance: gather(&running.variance), tracked: running.tracked }
    }

    pub(crate) fn infer_apart(&self, running: &Running) -> Vec<f64> {
        let bn = self.plain(self.convention().momentum);
        let mut all = vec![0.0; self.input.len()];
        for segment in 0..self.segments() {
            let (rows, running) = (self.rows(segment), self.recorded(running, segment));
            let gather = |values: &[f64]| -> Vec<f64> { rows.iter().map(|&element| values[element]).collect() };
            let mut output = vec![0.0; rows.len()];
            let buffers = InferenceBuffers {
                input: &gather(&self.input),
                output: &mut output,
                gamma: Some(&self.gamma),
                beta: Some(&self.beta),
                running_mean: &running.mean,
                running_variance: &running.variance,
                residual: Some(&gather(&self.residual)),
                ..Default::default()
            };
            let plan = bn.plan(&Shape::flat(rows.len() / self.channels(), self.channels(), 1)).unwrap();
            bn.inference(&plan, buffers).unwrap();
            rows.iter().zip(output).for_each(|(&element, y)| all[element] = y);
        }
        all
    }

    pub(crate) fn recompute(&self) -> ActivationState<'_, f64> {
        ActivationState::Recompute { residual: Some(&self.residual) }
    }

    /// What gradients are written over or added to.
    pub(crate) fn gradients(&self, value: f64) -> Gradients {
        let (elements, channels) = (vec![value; self.input.len()], vec![value; self.channels()]);
        Gradients { input: elements.clone(), gamma: channels.clone(), beta: channels, residual: elements }
    }

    /// All gradients, through training statistics or those given.
    pub(crate) fn backward(
        &self,
        frozen: Option<&Running>,
        activation: ActivationState<'_, f64>,
        renormalization: Option<&[ChannelRenormalization]>,
        results: Gradients,
        accumulates: bool,
    ) -> Gradients {
        let (bn, plan, valid) = (&self.bn, &self.plan, self.valid.as_deref());
        let what = Backward { input: &self.input, output_gradient: &self.output_gradient, activation, valid };
        backward(bn, plan, what, (&self.gamma, &self.beta), frozen, renormalization, results, accumulates)
    }

    /// All gradients by plain batches, a segment each.
    pub(crate) fn backward_apart(&self, frozen: Option<&Running>) -> Gradients {
        let bn = self.plain(self.convention().momentum);
        let mut all = self.gradients(0.0);
        for segment in 0..self.segments() {
            let rows = self.rows(segment);
            let gather = |values: &[f64]| -> Vec<f64> { rows.iter().map(|&element| values[element]).collect() };
            let (input, output_gradient, residual) =
                (gather(&self.input), gather(&self.output_gradient), gather(&self.residual));
            let plan = bn.plan(&Shape::flat(rows.len() / self.channels(), self.channels(), 1)).unwrap();
            let activation = ActivationState::Recompute { residual: Some(&residual) };
            let what = Backward { input: &input, output_gradient: &output_gradient, activation, valid: None };
            let onto = Gradients {
                input: vec![0.0; rows.len()],
                residual: vec![0.0; rows.len()],
                gamma: all.gamma,
                beta: all.beta,
            };
            let frozen = frozen.map(|running| self.recorded(running, segment));
            let got = backward(&bn, &plan, what, (&self.gamma, &self.beta), frozen.as_ref(), None, onto, true);
            for (row, &element) in rows.iter().enumerate() {
                (all.input[element], all.residual[element]) = (got.input[row], got.residual[row]);
            }
            (all.gamma, all.beta) = (got.gamma, got.beta);
        }
        all
    }

    /// Whether differences of a small step are derivatives: no kink and no vanishing variance nearby.
    pub(crate) fn is_smooth(&self) -> bool {
        let places = (0..self.segments()).flat_map(|s| (0..self.channels()).map(move |channel| (s, channel)));
        let varied = places.map(|(segment, channel)| self.elements(segment, channel)).all(|elements| {
            let count = elements.len() as f64;
            let mean = elements.iter().map(|&at| self.input[at]).sum::<f64>() / count;
            let variance = elements.iter().map(|&at| (self.input[at] - mean).powi(2)).sum::<f64>() / count;
            elements.len() < 2 || variance > 0.3
        });
        let identity = Self::random(self.cut, self.convention(), Activation::Identity, None, 0);
        let pre_activations = Self { bn: identity.bn, plan: identity.plan, ..self.clone() };
        let t = pre_activations.train(pre_activations.running(0, 0)).output;
        varied && t.iter().enumerate().all(|(at, t)| !self.is_valid(at) || t.abs() > 2e-3)
    }
}

/// What a backward pass reads.
#[derive(Clone, Copy)]
struct Backward<'a> {
    input: &'a [f64],
    output_gradient: &'a [f64],
    activation: ActivationState<'a, f64>,
    valid: Option<&'a [bool]>,
}

#[expect(clippy::too_many_arguments, reason = "everything that backward takes")]
fn backward(
    bn: &BatchNorm,
    plan: &Plan,
    what: Backward<'_>,
    (gamma, beta): (&[f64], &[f64]),
    frozen: Option<&Running>,
    renormalization: Option<&[ChannelRenormalization]>,
    mut results: Gradients,
    accumulates: bool,
) -> Gradients {
    fn gradient(accumulates: bool, values: &mut [f64]) -> Option<Gradient<'_, f64>> {
        Some(if accumulates { Gradient::Accumulate(values) } else { Gradient::Overwrite(values) })
    }
    let Backward { input, output_gradient, activation, valid } = what;
    let input_gradient = gradient(accumulates, &mut results.input);
    let gamma_gradient = gradient(accumulates, &mut results.gamma);
    let beta_gradient = gradient(accumulates, &mut results.beta);
    let residual_gradient = gradient(accumulates, &mut results.residual);
    let (gamma, beta) = (Some(gamma), Some(beta));
    match frozen {
        None => bn.backward(
            plan,
            BackwardBuffers {
                input,
                output_gradient,
                gamma,
                beta,
                saved: None,
                renormalization,
                valid,
                activation,
                input_gradient,
                gamma_gradient,
                beta_gradient,
                residual_gradient,
            },
        ),
        Some(Running { mean, variance, .. }) => bn.backward_frozen(
            plan,
            FrozenBackwardBuffers {
                input: Some(input),
                output_gradient,
                gamma,
                beta,
                running_mean: mean,
                running_variance: variance,
                valid,
                activation,
                input_gradient,
                gamma_gradient,
                beta_gradient,
                residual_gradient,
            },
        ),
    }
    .unwrap();
    results
}
