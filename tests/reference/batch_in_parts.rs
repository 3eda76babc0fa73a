//! One batch in several parts.

use proptest::prelude::{ProptestConfig, TestCaseError, prop_assert, prop_assert_eq, proptest};
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, Gradient, Plan, RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, BatchNormDescriptor, ChannelGradientSums, ChannelMoments, ChannelStatistics, Convention, Error,
    OneSamplePolicy, Shape,
};

const CHANNELS: usize = 3;
const INNER: usize = 4;
const STEP: usize = CHANNELS * INNER;
const GAMMA: [f64; CHANNELS] = [1.5, -0.5, 2.0];
const BETA: [f64; CHANNELS] = [0.1, 0.2, -0.3];

fn batch_norm(convention: Convention) -> BatchNorm {
    let descriptor = BatchNormDescriptor {
        channels: CHANNELS as u32,
        convention,
        activation: Activation::LeakyRelu { slope: 0.25 },
        ..Default::default()
    };
    BatchNorm::new(&descriptor).unwrap()
}

fn planned(bn: &BatchNorm, samples: usize) -> Plan {
    bn.plan(&Shape::new(&[samples, CHANNELS, INNER]).unwrap()).unwrap()
}

/// What a batch, or a part of it, gives.
#[derive(Clone)]
struct Outcome {
    y: Vec<f64>,
    dx: Vec<f64>,
    gamma_gradient: [f64; CHANNELS],
    beta_gradient: [f64; CHANNELS],
    mean: [f64; CHANNELS],
    variance: [f64; CHANNELS],
    tracked: u32,
}

impl Outcome {
    fn new(elements: usize) -> Self {
        Self {
            y: vec![f64::NAN; elements],
            dx: vec![f64::NAN; elements],
            gamma_gradient: [0.0; CHANNELS],
            beta_gradient: [0.0; CHANNELS],
            mean: [0.5; CHANNELS],
            variance: [2.0; CHANNELS],
            tracked: 4,
        }
    }

    fn training<'a>(&'a mut self, x: &'a [f64], saved: &'a mut [ChannelStatistics]) -> TrainingBuffers<'a, f64> {
        TrainingBuffers {
            input: x,
            output: &mut self.y,
            gamma: Some(&GAMMA),
            beta: Some(&BETA),
            running: Some(RunningStatistics {
                mean: &mut self.mean,
                variance: &mut self.variance,
                batches_tracked: Some(&mut self.tracked),
            }),
            saved: Some(saved),
            ..Default::default()
        }
    }

    fn backward<'a>(
        &'a mut self,
        x: &'a [f64],
        g: &'a [f64],
        saved: &'a [ChannelStatistics],
    ) -> BackwardBuffers<'a, f64> {
        BackwardBuffers {
            input: x,
            output_gradient: g,
            gamma: Some(&GAMMA),
            beta: Some(&BETA),
            saved: Some(saved),
            activation: ActivationState::default(),
            input_gradient: Some(Gradient::Overwrite(&mut self.dx)),
            gamma_gradient: Some(Gradient::Accumulate(&mut self.gamma_gradient)),
            beta_gradient: Some(Gradient::Accumulate(&mut self.beta_gradient)),
            ..Default::default()
        }
    }
}

fn whole(bn: &BatchNorm, x: &[f64], g: &[f64]) -> Outcome {
    let plan = planned(bn, x.len() / STEP);
    let (mut outcome, mut saved) = (Outcome::new(x.len()), [ChannelStatistics::default(); CHANNELS]);
    bn.training(&plan, outcome.training(x, &mut saved)).unwrap();
    bn.backward(&plan, outcome.backward(x, g, &saved)).unwrap();
    outcome
}

fn in_parts(bn: &BatchNorm, samples: &[usize], x: &[f64], g: &[f64]) -> Vec<Outcome> {
    let mut ends = samples.iter().scan(0, |end, samples| {
        *end += samples * STEP;
        Some(*end - samples * STEP..*end)
    });
    let parts: Vec<_> =
        ends.by_ref().map(|range| (planned(bn, range.len() / STEP), &x[range.clone()], &g[range])).collect();
    let mut moments = vec![ChannelMoments::default(); CHANNELS * parts.len()];
    for ((plan, x, _), record) in parts.iter().zip(moments.chunks_mut(CHANNELS)) {
        bn.part_moments(plan, x, None, record).unwrap();
    }
    let mut saved = [ChannelStatistics::default(); CHANNELS];
    let mut sums = vec![ChannelGradientSums::default(); moments.len()];
    let mut outcomes = Vec::new();
    for ((plan, x, g), sums) in parts.iter().zip(sums.chunks_mut(CHANNELS)) {
        let mut outcome = Outcome::new(x.len());
        bn.training_from_parts(plan, &moments, outcome.training(x, &mut saved)).unwrap();
        bn.part_gradients(plan, sums, outcome.backward(x, g, &saved)).unwrap();
        assert!(outcome.dx.iter().all(|dx| dx.is_nan()), "dx is left alone");
        outcomes.push(outcome);
    }
    // Merged moments count as much as those of parts.
    let mut merged = [ChannelMoments::default(); CHANNELS];
    bn.merge_moments(&parts[0].0, &moments, &mut merged).unwrap();
    for ((plan, x, g), outcome) in parts.iter().zip(&mut outcomes) {
        let before = outcome.gamma_gradient;
        bn.backward_from_parts(plan, &sums, &merged, outcome.backward(x, g, &saved)).unwrap();
        assert_eq!(before, outcome.gamma_gradient, "dγ is left alone");
    }
    outcomes
}

fn near(a: f64, b: f64, scale: f64) -> Result<(), TestCaseError> {
    // Records are rounded to f32: M2 and sums once, the mean in two parts.
    prop_assert!((a - b).abs() <= 1e-6 * (b.abs() + scale), "{a} is not {b}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn parts_give_what_the_whole_batch_gives(
        samples in proptest::collection::vec(0..5_usize, 1..6), offset in -1e3..1e3_f64, scale in 0.1..10.0_f64,
    ) {
        let total: usize = samples.iter().sum();
        if total == 0 {
            return Ok(());
        }
        let bn = batch_norm(Convention::pytorch());
        let value = |i: usize, factor: u64| ((i as u64 * factor) % 1009) as f64 / 1009.0 - 0.5;
        let x: Vec<f64> = (0..total * STEP).map(|i| offset + scale * value(i, 7919)).collect();
        let g: Vec<f64> = (0..total * STEP).map(|i| value(i, 104_729)).collect();
        let truth = whole(&bn, &x, &g);
        let parts = in_parts(&bn, &samples, &x, &g);
        let joined = |of: fn(&Outcome) -> &[f64]| parts.iter().flat_map(|part| of(part).to_vec()).collect::<Vec<_>>();
        for (got, expected) in joined(|part| &part.y).iter().zip(&truth.y) {
            near(*got, *expected, 1.0)?;
        }
        for (got, expected) in joined(|part| &part.dx).iter().zip(&truth.dx) {
            near(*got, *expected, 1.0 / scale)?;
        }
        for channel in 0..CHANNELS {
            let count = total as f64;
            let sum = |of: fn(&Outcome) -> &[f64; CHANNELS]| parts.iter().map(|part| of(part)[channel]).sum::<f64>();
            near(sum(|part| &part.gamma_gradient), truth.gamma_gradient[channel], count)?;
            near(sum(|part| &part.beta_gradient), truth.beta_gradient[channel], count)?;
            for part in &parts {
                near(part.mean[channel], truth.mean[channel], scale)?;
                near(part.variance[channel], truth.variance[channel], scale * scale)?;
                prop_assert_eq!(part.tracked, truth.tracked);
            }
        }
    }
}

#[test]
fn one_element_in_all_updates_only_what_the_policy_lets_it() {
    for (one_sample, updates) in [(OneSamplePolicy::Error, false), (OneSamplePolicy::PopulationVariance, true)] {
        let convention = Convention { one_sample, ..Convention::pytorch() };
        let bn = BatchNorm::new(&BatchNormDescriptor { channels: 1, convention, ..Default::default() }).unwrap();
        let plan = bn.plan(&Shape::new(&[1, 1]).unwrap()).unwrap();
        let moments = [ChannelMoments { count: 1, pivot: 3.0, ..Default::default() }, ChannelMoments::default()];
        let (mut y, mut mean, mut variance) = ([f32::NAN], [0.0_f32], [1.0_f32]);
        let running = Some(RunningStatistics { mean: &mut mean, variance: &mut variance, batches_tracked: None });
        let buffers = TrainingBuffers { input: &[3.0_f32], output: &mut y, running, ..Default::default() };
        bn.training_from_parts(&plan, &moments, buffers).unwrap();
        assert_eq!((y[0], mean[0] != 0.0, variance[0] != 1.0), (0.0, updates, updates));
    }
}

#[test]
fn gradient_sums_of_parts_add_up_channel_by_channel() {
    let bn = batch_norm(Convention::pytorch());
    let plan = planned(&bn, 1);
    let part =
        |first: f32| [0.0, 1.0, 2.0].map(|channel| ChannelGradientSums { sum: first + channel, product: -channel });
    let mut merged = [ChannelGradientSums::default(); CHANNELS];
    bn.merge_gradient_sums(&plan, &[part(1.0), part(10.0), part(100.0)].concat(), &mut merged).unwrap();
    let expected =
        [0.0, 1.0, 2.0].map(|channel| ChannelGradientSums { sum: 111.0 + 3.0 * channel, product: -3.0 * channel });
    assert_eq!(merged, expected);
    // What is merged is a part, so a tree of them comes to the same.
    let mut first = [ChannelGradientSums::default(); CHANNELS];
    bn.merge_gradient_sums(&plan, &[part(1.0), part(10.0)].concat(), &mut first).unwrap();
    bn.merge_gradient_sums(&plan, &[first, part(100.0)].concat(), &mut merged).unwrap();
    assert_eq!(merged, expected);
}

#[test]
fn parts_that_make_no_sense_are_refused() {
    let bn = batch_norm(Convention::pytorch());
    let plan = planned(&bn, 1);
    let (x, g) = ([0.0; STEP], [0.0; STEP]);
    let mut record = [ChannelMoments::default(); CHANNELS];
    let wrong = Error::WrongLength { binding: "moments", expected: 3, actual: 2 };
    assert_eq!(bn.part_moments(&plan, &x, None, &mut record[..2]), Err(wrong));
    let wrong = Error::WrongLength { binding: "moments", expected: 6, actual: 4 };
    assert_eq!(bn.merge_moments(&plan, &[ChannelMoments::default(); 4], &mut record), Err(wrong));
    let wrong = Error::WrongLength { binding: "moments", expected: 3, actual: 0 };
    assert_eq!(bn.merge_moments(&plan, &[], &mut record), Err(wrong));
    let mut added = [ChannelGradientSums::default(); CHANNELS];
    let wrong = Error::WrongLength { binding: "parts", expected: 6, actual: 4 };
    assert_eq!(bn.merge_gradient_sums(&plan, &[ChannelGradientSums::default(); 4], &mut added), Err(wrong));
    let wrong = Error::WrongLength { binding: "merged", expected: 3, actual: 2 };
    assert_eq!(bn.merge_gradient_sums(&plan, &[ChannelGradientSums::default(); 3], &mut added[..2]), Err(wrong));
    let mut outcome = Outcome::new(STEP);
    let unsaved = BackwardBuffers { saved: None, ..outcome.backward(&x, &g, &[]) };
    let mut sums = [ChannelGradientSums::default(); CHANNELS];
    assert_eq!(bn.part_gradients(&plan, &mut sums, unsaved), Err(Error::MissingSavedStatistics));
    let saved = [ChannelStatistics::default(); CHANNELS];
    let none = BackwardBuffers { input_gradient: None, ..outcome.backward(&x, &g, &saved) };
    assert_eq!(bn.backward_from_parts(&plan, &sums, &record, none), Err(Error::NoGradientRequested));
}
