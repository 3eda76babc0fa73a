//! What has failed in other systems, on devices; `docs/failures.md` has the list.

use std::ops::Range;

use crate::common::case::{Case, POISON, loaded, rounded, stored};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, Convention, ElementType, FrozenBackwardBuffers, Gradient, InferenceBuffers, Momentum,
    RunningStatistics, TrainingBuffers,
};

const SIXTEEN: [ElementType; 2] = [ElementType::F16, ElementType::Bf16];

/// Every operation on a device, against the reference.
fn assert_meets_reference(target: &Target, name: &str, case: &Case) {
    let worst = compare(case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
    assert!(worst.ratio <= 1.0, "{target}: {name}, {:?} {}: {worst:?}", case.shape, case.element);
}

/// Values and running statistics about a mean, five deviations away at most.
fn around(case: &mut Case, mean: f32, deviation: f32) {
    for (x, noise) in case.input.iter_mut().zip(&case.output_gradient) {
        *x = mean + deviation * noise.clamp(-5.0, 5.0);
    }
    case.running_mean.fill(mean);
    case.running_variance.fill(deviation * deviation);
}

/// Shapes of rows and of columns, of which each plan of an adapter takes one: pipelines take long on software drivers. Where there is one plan
/// only it is the last, which no other driver may have.
fn shape_of(target: &Target) -> &'static [usize] {
    let index = if target.plans == 1 { 2 } else { target.plan % 3 };
    [&[6, 5, 65][..], &[260, 7], &[3, 12, 16]][index]
}

#[test]
fn sixteen_bits_with_a_mean_of_many_deviations_keep_their_variance() {
    on_every_target(|target| {
        for element in SIXTEEN {
            for (mean, deviation) in [(5.0, 0.1), (100.0, 1.0), (1000.0, 10.0)] {
                let mut case = Case::random(shape_of(target), ChannelsFirst, 1);
                around(&mut case, mean, deviation);
                let case = case.stored_as(element);
                // What bf16 makes of it still varies.
                let moments = case.moments(case.segmentation());
                assert!(moments.iter().all(|moments| moments.variance > 0.0), "{element} {mean}");
                assert_meets_reference(target, "a large mean", &case);
            }
        }
    });
}

#[test]
fn sums_and_squares_of_large_finite_values_do_not_overflow() {
    on_every_target(|target| {
        // The whole range of f16: a sum of two is not finite in that type.
        let mut case = Case::random(shape_of(target), ChannelsFirst, 2);
        around(&mut case, 60_000.0, 1000.0);
        assert_meets_reference(target, "near the end of f16", &case.stored_as(ElementType::F16));
        // Squares beyond f32, with a variance within.
        let mut case = Case::random(shape_of(target), ChannelsFirst, 3);
        around(&mut case, 5e19, 1e16);
        assert!((case.input[0] * case.input[0]).is_infinite());
        assert_meets_reference(target, "squares beyond f32", &case);
        // Sums beyond f32, of a channel that is constant.
        let mut case = Case::random(shape_of(target), ChannelsFirst, 4);
        case.input.fill(f32::MAX);
        let got = case.run_device(target).unwrap();
        assert!(got.saved.iter().all(|saved| saved.mean() == f32::MAX && saved.variance == 0.0), "{target}");
        let beta = case.beta.as_ref().unwrap();
        assert!(got.output.iter().enumerate().all(|(index, &y)| y == beta[case.channel(index)]), "{target}");
    });
}

#[test]
fn vectors_of_16_bit_tensors_hold_what_16_bits_cannot() {
    on_every_target(|target| {
        for element in SIXTEEN {
            // Running statistics above the largest f16 and below the smallest; gammas that bring y back into range.
            let mut case = Case::random(shape_of(target), ChannelsFirst, 5);
            case.convention.epsilon = 1e-30;
            for (channel, variance) in case.running_variance.iter_mut().enumerate() {
                let large = channel.is_multiple_of(2);
                *variance = if large { 1e10 } else { 1e-14 };
                case.running_mean[channel] = if large { 70_000.0 } else { 1e-9 };
                case.gamma.as_mut().unwrap()[channel] = if large { 1e4 } else { 1e-8 };
            }
            case.output_gradient.iter_mut().for_each(|g| *g *= 0.01);
            let case = case.stored_as(element);
            let got = case.run_device(target).unwrap();
            for (index, y) in got.inference.iter().enumerate() {
                // Not beta, which an infinite variance would leave.
                let large = case.channel(index).is_multiple_of(2);
                assert!(y.is_finite() && (!large || *y < -1000.0), "{target}: {element}: {y}");
            }
            assert_meets_reference(target, "parameters out of range", &case);
        }
    });
}

#[test]
fn an_epsilon_below_16_bits_counts_in_16_bit_tensors() {
    on_every_target(|target| {
        // Without epsilon, or with one that became 0, a running variance of 0 gives infinities.
        let mut case = Case::random(shape_of(target), ChannelsFirst, 6);
        case.convention.epsilon = 1e-10;
        case.running_variance.fill(0.0);
        case.running_mean.fill(1.0);
        case.gamma.as_mut().unwrap().fill(1.0);
        case.input.iter_mut().for_each(|x| *x = 1.0 + x.signum() * 2_f32.powi(-10));
        case.output_gradient.iter_mut().for_each(|g| *g *= 0.01);
        let case = case.stored_as(ElementType::F16);
        let got = case.run_device(target).unwrap();
        assert!(got.inference.iter().all(|y| y.is_finite() && y.abs() > 10.0), "{target}");
        assert_meets_reference(target, "epsilon", &case);
    });
}

#[test]
fn counts_beyond_the_range_of_f16_and_more_samples_than_others_take() {
    on_every_target(|target| {
        // cuDNN takes fewer than 131,070 samples in training, and 65,535 in evaluation.
        let cases = [(131_073, ElementType::F32), (70_001, ElementType::F16), (70_001, ElementType::Bf16)];
        // The plans of an adapter share them out.
        for (samples, element) in cases.into_iter().skip(target.plan).step_by(target.plans) {
            let case = Case::random(&[samples, 2], ChannelsFirst, 7).stored_as(element);
            assert_eq!(case.convention, Convention::pytorch(), "the factor M/(M − 1) is under test");
            assert_meets_reference(target, "many samples", &case);
        }
    });
}

#[test]
fn y_depends_on_neither_momentum_nor_running_statistics() {
    on_every_target(|target| {
        let case = Case::random(shape_of(target), ChannelsFirst, 8);
        let run = |momentum, start: f32| {
            let mut case = case.clone();
            case.convention.momentum = momentum;
            case.running_mean.fill(start);
            case.running_variance.fill(start.abs());
            let got = case.run_device(target).unwrap();
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            ([bits(&got.output), bits(&got.input_gradient), bits(&got.gamma_gradient)], got.running_mean)
        };
        let (results, running) = run(Momentum::WeightOfNew(0.1), 0.5);
        for (momentum, start) in [(Momentum::WeightOfNew(0.9), 7.0), (Momentum::WeightOfOld(0.99), f32::NAN)] {
            let (other, other_running) = run(momentum, start);
            assert_eq!(results, other, "{target}: {momentum:?}");
            assert_ne!(running, other_running, "{target}: {momentum:?}");
        }
    });
}

/// Slices of one buffer, one after the other, with a guard between them.
struct Pool {
    words: Vec<u32>,
    alignment: u64,
}

impl Pool {
    fn place(&mut self, words: &[u32]) -> Range<u64> {
        let start = 4 * self.words.len() as u64;
        self.words.extend(words);
        let end = 4 * self.words.len() as u64;
        self.words.resize((end.next_multiple_of(self.alignment) + self.alignment) as usize / 4, POISON.to_bits());
        start..end
    }

    fn vector(&mut self, values: &[f32]) -> Range<u64> {
        self.place(bytemuck::cast_slice(values))
    }
}

#[test]
fn every_layout_and_element_type_at_offsets_gives_the_same_bits_as_at_none() {
    let layouts: [(&[usize], Layout); 4] = [
        (&[5, 6, 9], ChannelsFirst),
        (&[5, 9, 6], ChannelsLast),
        (&[37, 6], ChannelsFirst),
        (&[2, 6, 64], ChannelsFirst),
    ];
    let combinations = layouts.into_iter().flat_map(|layout| ElementType::ALL.map(|element| (layout, element)));
    let combinations: Vec<_> = combinations.collect();
    on_every_target(|target| {
        for &((shape, layout), element) in combinations.iter().skip(target.plan).step_by(target.plans) {
            let case = Case::random(shape, layout, 9).stored_as(element);
            let apart = case.run_device(target).unwrap();
            let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
            let plan = bn.plan(&case.shape()).unwrap();
            let mut pool = Pool { words: Vec::new(), alignment: target.kernels.profile().slice_alignment() };
            // Nothing starts at 0.
            pool.place(&[POISON.to_bits()]);
            let [x, g] = [&case.input, &case.output_gradient].map(|values| pool.place(&stored(element, values)));
            let unwritten = vec![rounded(element, 77.0); case.input.len()];
            let [y, evaluated, dx, frozen_dx] = [(); 4].map(|()| pool.place(&stored(element, &unwritten)));
            let [gamma, beta] = [&case.gamma, &case.beta].map(|values| pool.vector(values.as_ref().unwrap()));
            let [mean, recorded_mean] = [(); 2].map(|()| pool.vector(&case.running_mean));
            let [variance, recorded_variance] = [(); 2].map(|()| pool.vector(&case.running_variance));
            let none = vec![POISON; case.channels()];
            let [dgamma, dbeta, frozen_dgamma, frozen_dbeta] = [(); 4].map(|()| pool.vector(&none));
            let saved = pool.vector(&vec![POISON; plan.saved_size() as usize / 4]);
            let workspace = pool.vector(&vec![POISON; plan.workspace_size() as usize / 4]);
            let buffer = target.gpu.upload("pool", &pool.words);
            let slice = |range: &Range<u64>| buffer.slice(range.clone());
            let gradient = |range: &Range<u64>| Some(Gradient::Overwrite(slice(range)));
            let (parameters, recorded) = ((Some(slice(&gamma)), Some(slice(&beta))), slice(&recorded_mean));
            let training = TrainingBuffers {
                gamma: parameters.0,
                beta: parameters.1,
                running: Some(RunningStatistics {
                    mean: slice(&mean),
                    variance: slice(&variance),
                    batches_tracked: None,
                }),
                saved: Some(slice(&saved)),
                ..TrainingBuffers::new(slice(&x), slice(&y), slice(&workspace))
            };
            let inference = InferenceBuffers {
                gamma: parameters.0,
                beta: parameters.1,
                ..InferenceBuffers::new(slice(&x), slice(&evaluated), recorded, slice(&recorded_variance))
            };
            let backward = BackwardBuffers {
                gamma: parameters.0,
                beta: parameters.1,
                saved: Some(slice(&saved)),
                input_gradient: gradient(&dx),
                gamma_gradient: gradient(&dgamma),
                beta_gradient: gradient(&dbeta),
                ..BackwardBuffers::new(slice(&x), slice(&g), slice(&workspace))
            };
            let frozen = FrozenBackwardBuffers {
                input: Some(slice(&x)),
                gamma: parameters.0,
                beta: parameters.1,
                input_gradient: gradient(&frozen_dx),
                gamma_gradient: gradient(&frozen_dgamma),
                beta_gradient: gradient(&frozen_dbeta),
                ..FrozenBackwardBuffers::new(slice(&g), recorded, slice(&recorded_variance), slice(&workspace))
            };
            let training = bn.bind_training(&plan, &training).unwrap();
            let inference = bn.bind_inference(&plan, &inference).unwrap();
            let backward = bn.bind_backward(&plan, &backward).unwrap();
            let frozen = bn.bind_backward_frozen(&plan, &frozen).unwrap();
            target.gpu.submit(|pass| {
                training.record(pass);
                inference.record(pass);
                backward.record(pass);
                frozen.record(pass);
            });
            let after: Vec<u32> = target.gpu.read(&buffer, pool.words.len());
            let part = |range: &Range<u64>| &after[range.start as usize / 4..range.end as usize / 4];
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            for (name, range, expected) in [
                ("output", &y, &apart.output),
                ("inference", &evaluated, &apart.inference),
                ("input_gradient", &dx, &apart.input_gradient),
                ("frozen_input_gradient", &frozen_dx, &apart.frozen_input_gradient),
            ] {
                let got = loaded(element, part(range), case.input.len());
                assert_eq!(bits(&got), bits(expected), "{target}: {shape:?} {layout:?} {element}: {name}");
            }
            for (name, range, expected) in [
                ("running_mean", &mean, &apart.running_mean),
                ("running_variance", &variance, &apart.running_variance),
                ("gamma_gradient", &dgamma, &apart.gamma_gradient),
                ("beta_gradient", &dbeta, &apart.beta_gradient),
                ("frozen_gamma_gradient", &frozen_dgamma, &apart.frozen_gamma_gradient),
                ("frozen_beta_gradient", &frozen_dbeta, &apart.frozen_beta_gradient),
            ] {
                assert_eq!(part(range), bits(expected), "{target}: {shape:?} {layout:?} {element}: {name}");
            }
        }
    });
}
