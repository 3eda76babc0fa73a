//! Backward: every gradient against central differences, the sources of the activation against each other.

use approx::assert_abs_diff_eq;
use proptest::prelude::*;
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, FrozenBackwardBuffers, Gradient, InferenceBuffers, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNormDescriptor, ChannelStatistics, Convention, Layout, Shape,
};

use super::case::{Case, Forward, Gradients, SHAPES};
use super::{ACTIVATIONS, activated, planned};

const SOURCES: [ActivationSource; 3] = [ActivationSource::Recompute, ActivationSource::Output, ActivationSource::Mask];

fn serves(activation: Activation, source: ActivationSource) -> bool {
    activation.is_piecewise_linear() || source == ActivationSource::Recompute
}

fn state<'a>(case: &'a Case, forward: &'a Forward, source: ActivationSource) -> ActivationState<'a, f64> {
    match source {
        ActivationSource::Output => ActivationState::Output(&forward.output),
        ActivationSource::Mask => ActivationState::Mask(&forward.mask),
        _ => case.recompute(),
    }
}

/// Central differences of the loss `Σ g·y`; the step balances truncation (h²) and cancellation (2⁻⁵²/h).
fn difference(case: &mut Case, values: fn(&mut Case) -> &mut Vec<f64>, index: usize) -> f64 {
    let loss = |case: &Case| -> f64 {
        case.forward().output.iter().zip(&case.output_gradient).map(|(y, gradient)| y * gradient).sum()
    };
    let (at, step) = (values(case)[index], 1e-5);
    values(case)[index] = at + step;
    let above = loss(case);
    values(case)[index] = at - step;
    let below = loss(case);
    values(case)[index] = at;
    (above - below) / (2.0 * step)
}

/// Whether differences of this step are derivatives: no kink and no vanishing variance nearby.
fn is_smooth(case: &Case) -> bool {
    let channels = case.plan.problem().channels as usize;
    let varied = (0..channels).all(|channel| {
        let of_channel = || (0..case.input.len()).filter(|&i| case.channel(i) == channel).map(|i| case.input[i]);
        let count = of_channel().count() as f64;
        let mean = of_channel().sum::<f64>() / count;
        of_channel().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count > 0.3
    });
    let pre_activations = case.with_activation(Activation::Identity).forward().output;
    varied && pre_activations.iter().all(|t| t.abs() > 2e-3)
}

/// The first smooth case from a seed on.
fn smooth(seed: u64, case: impl Fn(u64) -> Case) -> Case {
    (seed..).map(case).find(is_smooth).unwrap()
}

#[test]
fn every_gradient_is_the_finite_difference_of_its_forward() {
    for (shape, layout) in SHAPES {
        for activation in ACTIVATIONS {
            for choice in 0..16 {
                let case = smooth(choice, |seed| {
                    let mut case = Case::random(shape, layout, activation, choice & 1 != 0, seed);
                    case = case.with_residual(choice & 2 != 0);
                    case.gamma = case.gamma.filter(|_| choice & 4 != 0);
                    case.beta = case.beta.filter(|_| choice & 8 != 0);
                    case
                });
                check_differences(&case);
            }
        }
    }
}

fn check_differences(case: &Case) {
    let mut explicit = case.explicit();
    let mut expect = |values: fn(&mut Case) -> &mut Vec<f64>| -> Vec<f64> {
        let count = values(&mut explicit).len();
        (0..count).map(|index| difference(&mut explicit, values, index)).collect()
    };
    let expected = Gradients {
        input: expect(|case| &mut case.input),
        gamma: expect(|case| case.gamma.as_mut().unwrap()),
        beta: expect(|case| case.beta.as_mut().unwrap()),
        residual: expect(|case| case.residual.as_mut().unwrap()),
    };
    let forward = case.forward();
    for source in SOURCES.into_iter().filter(|source| serves(case.activation(), *source)) {
        let got = case.backward(state(case, &forward, source), None);
        let pairs = [
            (&got.input, &expected.input),
            (&got.gamma, &expected.gamma),
            (&got.beta, &expected.beta),
            (&got.residual, &expected.residual),
        ];
        for (got, expected) in pairs {
            for (got, expected) in got.iter().zip(expected) {
                assert_abs_diff_eq!(got, expected, epsilon = 1e-7);
            }
        }
    }
}

proptest! {
    #[test]
    fn all_sources_give_the_same_gradients_and_accumulation_adds_them(
        which in 0..SHAPES.len(), leaky in 0..3_usize, frozen: bool, residual: bool, seed in 0..10_000_u64,
    ) {
        let (shape, layout) = SHAPES[which];
        let activation = ACTIVATIONS[leaky];
        let mut case = Case::random(shape, layout, activation, frozen, seed).with_residual(residual);
        if !residual {
            // A pre-activation of exactly 0 for every element of the first channel.
            case.gamma.as_mut().unwrap()[0] = 0.0;
            case.beta.as_mut().unwrap()[0] = 0.0;
        }
        let forward = case.forward();
        let recomputed = case.backward(case.recompute(), None);
        for source in SOURCES {
            let state = state(&case, &forward, source);
            prop_assert_eq!(&case.backward(state, None), &recomputed);
            let seeds = |values: &[f64]| -> Vec<f64> { (0..values.len()).map(|i| i as f64 - 2.0).collect() };
            let onto = Gradients {
                input: seeds(&recomputed.input),
                gamma: seeds(&recomputed.gamma),
                beta: seeds(&recomputed.beta),
                residual: seeds(&recomputed.residual),
            };
            let sum =
                |onto: &[f64], added: &[f64]| -> Vec<f64> { onto.iter().zip(added).map(|(a, b)| a + b).collect() };
            let expected = Gradients {
                input: sum(&onto.input, &recomputed.input),
                gamma: sum(&onto.gamma, &recomputed.gamma),
                beta: sum(&onto.beta, &recomputed.beta),
                residual: sum(&onto.residual, &recomputed.residual),
            };
            prop_assert_eq!(case.backward(state, Some(onto)), expected);
        }
    }

    /// The statistics that forward saved give x̂ and t as those of the input do, but for their rounding to f32.
    #[test]
    fn saved_statistics_give_the_same_gradients(
        which in 0..SHAPES.len(), activation in 0..ACTIVATIONS.len(), seed in 0..1000_u64,
    ) {
        let (shape, layout) = SHAPES[which];
        let case = smooth(seed, |seed| Case::random(shape, layout, ACTIVATIONS[activation], false, seed));
        let mut saved = vec![ChannelStatistics::default(); case.gamma.as_ref().unwrap().len()];
        let mut output = vec![0.0; case.input.len()];
        let buffers =
            TrainingBuffers { input: &case.input, output: &mut output, saved: Some(&mut saved), ..Default::default() };
        case.bn.training(&case.plan, buffers).unwrap();
        let mut dx = vec![0.0; case.input.len()];
        case.bn.backward(&case.plan, BackwardBuffers {
            input: &case.input,
            output_gradient: &case.output_gradient,
            gamma: case.gamma.as_deref(),
            beta: case.beta.as_deref(),
            saved: Some(&saved),
            activation: case.recompute(),
            input_gradient: Some(Gradient::Overwrite(&mut dx)),
            ..Default::default()
        }).unwrap();
        for (got, expected) in dx.iter().zip(case.backward(case.recompute(), None).input) {
            prop_assert!((got - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn a_gradient_is_selected_and_never_multiplied_by_zero() {
    // t is −1, 0, 1 and a NaN.
    let x = [-1.0, 0.0, 1.0, f64::NAN];
    let (mean, variance) = ([0.0], [1.0]);
    let convention = Convention { epsilon: 0.0, ..Convention::pytorch() };
    let through = |activation: Activation, source: ActivationSource| {
        let descriptor = BatchNormDescriptor { channels: 1, convention, activation, ..Default::default() };
        let bn = BatchNorm::new(&descriptor).unwrap();
        let plan = bn.plan(&Shape::flat(4, 1, 1)).unwrap();
        let (mut y, mut mask, mut dz) = ([0.0; 4], [0], [9.0; 4]);
        let buffers = InferenceBuffers {
            input: &x,
            output: &mut y,
            running_mean: &mean,
            running_variance: &variance,
            activation_mask: Some(&mut mask),
            ..Default::default()
        };
        bn.inference(&plan, buffers).unwrap();
        let buffers = FrozenBackwardBuffers {
            input: Some(&x),
            output_gradient: &[f64::INFINITY; 4],
            running_mean: &mean,
            running_variance: &variance,
            activation: match source {
                ActivationSource::Output => ActivationState::Output(&y),
                ActivationSource::Mask => ActivationState::Mask(&mask),
                _ => ActivationState::default(),
            },
            residual_gradient: Some(Gradient::Overwrite(&mut dz)),
            ..Default::default()
        };
        bn.backward_frozen(&plan, buffers).unwrap();
        dz
    };
    let infinity = f64::INFINITY;
    for source in SOURCES {
        assert_eq!(through(Activation::Identity, source), [infinity; 4]);
        assert_eq!(through(Activation::LeakyRelu { slope: 0.5 }, source), [infinity; 4]);
        // The bit of a NaN is 0; the gradient passes where the NaN itself is seen.
        let nan = if source == ActivationSource::Mask { 0.0 } else { infinity };
        assert_eq!(through(Activation::Relu, source), [0.0, 0.0, infinity, nan], "{source}");
    }
}

#[test]
fn each_gradient_can_be_asked_for_alone() {
    let case = Case::random(&[4, 3], Layout::ChannelsFirst, Activation::Gelu, false, 1);
    let all = case.backward(case.recompute(), None);
    let buffers = || BackwardBuffers {
        input: &case.input,
        output_gradient: &case.output_gradient,
        gamma: case.gamma.as_deref(),
        beta: case.beta.as_deref(),
        activation: case.recompute(),
        ..Default::default()
    };
    let (mut dx, mut dgamma, mut dbeta, mut dz) = ([0.0; 12], [0.0; 3], [0.0; 3], [0.0; 12]);
    let requests = [
        BackwardBuffers { input_gradient: Some(Gradient::Overwrite(&mut dx)), ..buffers() },
        BackwardBuffers { gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)), ..buffers() },
        BackwardBuffers { beta_gradient: Some(Gradient::Overwrite(&mut dbeta)), ..buffers() },
        BackwardBuffers { residual_gradient: Some(Gradient::Overwrite(&mut dz)), ..buffers() },
    ];
    for request in requests {
        case.bn.backward(&case.plan, request).unwrap();
    }
    assert_eq!(dx.as_slice(), all.input);
    assert_eq!(dgamma.as_slice(), all.gamma);
    assert_eq!(dbeta.as_slice(), all.beta);
    assert_eq!(dz.as_slice(), all.residual);
}

#[test]
fn an_empty_batch_has_empty_masks_and_residuals() {
    for activation in ACTIVATIONS {
        let (bn, plan) = activated(&[0, 2], Layout::ChannelsFirst, activation);
        let (mut dgamma, mut dbeta) = ([7.0_f32; 2], [7.0_f32; 2]);
        let buffers = FrozenBackwardBuffers {
            input: Some(&[]),
            running_mean: &[0.0; 2],
            running_variance: &[1.0; 2],
            gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
            beta_gradient: Some(Gradient::Accumulate(&mut dbeta)),
            residual_gradient: Some(Gradient::Overwrite(&mut [])),
            ..Default::default()
        };
        bn.backward_frozen::<f32>(&plan, buffers).unwrap();
        assert_eq!((dgamma, dbeta), ([0.0; 2], [7.0; 2]));
    }
}

#[test]
fn an_empty_batch_has_zero_parameter_gradients_and_adds_nothing() {
    let (bn, plan) = planned(&[0, 2, 5], Layout::ChannelsFirst, Convention::pytorch());
    let (mut dgamma, mut dbeta) = ([7.0_f32; 2], [7.0_f32; 2]);
    bn.backward::<f32>(
        &plan,
        BackwardBuffers {
            input_gradient: Some(Gradient::Overwrite(&mut [])),
            gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
            beta_gradient: Some(Gradient::Accumulate(&mut dbeta)),
            ..Default::default()
        },
    )
    .unwrap();
    assert_eq!((dgamma, dbeta), ([0.0; 2], [7.0; 2]));
}

#[test]
fn astronomically_many_empty_rows_take_no_time() {
    let bn = BatchNorm::new(&BatchNormDescriptor { channels: 3, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::flat(usize::MAX, 3, 0)).unwrap();
    let mut dbeta = [7.0_f32; 3];
    bn.backward::<f32>(
        &plan,
        BackwardBuffers { beta_gradient: Some(Gradient::Overwrite(&mut dbeta)), ..Default::default() },
    )
    .unwrap();
    assert_eq!(dbeta, [0.0; 3]);
}
