//! Every typed error, and that nothing was written then.

use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, BatchNorm, FoldBuffers, FrozenBackwardBuffers, Gradient, InferenceBuffers,
    RunningStatistics, TrainingBuffers,
};
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNormDescriptor, ChannelHealth, ChannelStatistics, Convention, EmptyBatchPolicy,
    Error, Layout, Momentum, OneSamplePolicy, RunningVariance, Shape,
};

use super::{ACTIVATIONS, activated, planned};

#[test]
fn wrong_lengths_are_errors_and_write_nothing() {
    let (bn, plan) = planned(&[2, 2], Layout::ChannelsFirst, Convention::pytorch());
    let mut y = [9.0_f32; 4];
    let short = TrainingBuffers { input: &[1.0; 3], output: &mut y, ..Default::default() };
    let expected = Error::WrongLength { binding: "input", expected: 4, actual: 3 };
    assert_eq!(bn.training(&plan, short), Err(expected));
    let gamma = TrainingBuffers { input: &[1.0; 4], output: &mut y, gamma: Some(&[1.0; 3]), ..Default::default() };
    let expected = Error::WrongLength { binding: "gamma", expected: 2, actual: 3 };
    assert_eq!(bn.training(&plan, gamma), Err(expected));
    assert_eq!(y, [9.0; 4]);
    let other = BatchNorm::new(&BatchNormDescriptor { channels: 3, ..Default::default() }).unwrap();
    let buffers = TrainingBuffers { input: &[1.0; 4], output: &mut y, ..Default::default() };
    assert_eq!(other.training(&plan, buffers), Err(Error::PlanMismatch));
    let (_, other_layout) = planned(&[2, 2], Layout::ChannelsLast, Convention::pytorch());
    let buffers = TrainingBuffers { input: &[1.0; 4], output: &mut y, ..Default::default() };
    assert_eq!(bn.training(&other_layout, buffers), Err(Error::PlanMismatch));
    let cumulative = Convention {
        momentum: Momentum::CumulativeAverage,
        running_variance: RunningVariance::Population,
        ..Convention::pytorch()
    };
    let (bn, plan) = planned(&[2, 2], Layout::ChannelsFirst, cumulative);
    let running = RunningStatistics { mean: &mut [0.0; 2], variance: &mut [0.0; 2], batches_tracked: None };
    let buffers = TrainingBuffers { input: &[1.0; 4], output: &mut y, running: Some(running), ..Default::default() };
    assert_eq!(bn.training(&plan, buffers), Err(Error::MissingBatchesTracked));
}

#[test]
fn the_input_is_needed_for_the_gradient_of_gamma_and_to_recompute_an_activation() {
    let convention = Convention { epsilon: 0.0, ..Convention::pytorch() };
    let mask = [0b10];
    let states = [ActivationState::default(), ActivationState::Output(&[0.0, 1.0]), ActivationState::Mask(&mask)];
    for activation in ACTIVATIONS {
        let descriptor = BatchNormDescriptor { channels: 1, convention, activation, ..Default::default() };
        let bn = BatchNorm::new(&descriptor).unwrap();
        let plan = bn.plan(&Shape::flat(2, 1, 1)).unwrap();
        for state in states {
            if !activation.is_piecewise_linear() && state.source() != ActivationSource::Recompute {
                continue;
            }
            for asks_gamma in [false, true] {
                let (mut dx, mut dgamma) = ([9.0_f64; 2], [9.0_f64]);
                let buffers = FrozenBackwardBuffers {
                    output_gradient: &[3.0, 5.0],
                    gamma: Some(&[2.0]),
                    running_mean: &[1.0],
                    running_variance: &[4.0],
                    activation: state,
                    input_gradient: Some(Gradient::Overwrite(&mut dx)),
                    gamma_gradient: asks_gamma.then_some(Gradient::Overwrite(&mut dgamma)),
                    ..Default::default()
                };
                let recomputes = activation != Activation::Identity && state.source() == ActivationSource::Recompute;
                let result = bn.backward_frozen(&plan, buffers);
                if asks_gamma || recomputes {
                    assert_eq!((result, dx, dgamma), (Err(Error::MissingInput), [9.0; 2], [9.0]));
                } else {
                    // γ·r is 1.
                    let first = match activation {
                        Activation::Relu => 0.0,
                        Activation::LeakyRelu { slope } => 3.0 * slope,
                        _ => 3.0,
                    };
                    assert_eq!((result, dx), (Ok(()), [first, 5.0]));
                }
            }
        }
    }
}

#[test]
fn a_mask_of_an_activation_without_a_kink_is_refused() {
    for activation in ACTIVATIONS {
        let (bn, plan) = activated(&[2, 2], Layout::ChannelsFirst, activation);
        let (mut y, mut mask) = ([9.0_f32; 4], [u32::MAX]);
        let buffers = TrainingBuffers {
            input: &[1.0, 2.0, 3.0, 5.0],
            output: &mut y,
            activation_mask: Some(&mut mask),
            ..Default::default()
        };
        let trained = bn.training(&plan, buffers);
        let (mut inferred, mut inferred_mask) = ([9.0_f32; 4], [u32::MAX]);
        let buffers = InferenceBuffers {
            input: &[1.0; 4],
            output: &mut inferred,
            running_mean: &[0.0; 2],
            running_variance: &[1.0; 2],
            activation_mask: Some(&mut inferred_mask),
            ..Default::default()
        };
        let results = (trained, bn.inference(&plan, buffers));
        if activation.is_piecewise_linear() {
            assert_eq!(results, (Ok(()), Ok(())));
        } else {
            let refused = || Err(Error::UselessActivationMask { activation });
            assert_eq!(results, (refused(), refused()));
            assert_eq!((y, mask, inferred, inferred_mask), ([9.0; 4], [u32::MAX], [9.0; 4], [u32::MAX]));
        }
    }
}

/// A field, its length, and what makes it wrong in buffers that are right.
type BackwardRow = (&'static str, u64, fn(&mut BackwardBuffers<'_, f32>));
type FrozenBackwardRow = (&'static str, u64, fn(&mut FrozenBackwardBuffers<'_, f32>));
type FoldRow = (&'static str, u64, fn(&mut FoldBuffers<'_, f32>));
type Call<'a> = dyn Fn([Option<Gradient<'_, f32>>; 4]) -> Result<(), Error> + 'a;

/// Both backwards on one problem of two rows and two channels, with all gradients asked for, and whether anything was
/// written.
fn both_backwards(
    activation: Activation,
    state: ActivationState<'_, f32>,
    change: fn(&mut BackwardBuffers<'_, f32>),
    change_frozen: fn(&mut FrozenBackwardBuffers<'_, f32>),
) -> [(Result<(), Error>, bool); 2] {
    let (bn, plan) = activated(&[2, 2], Layout::ChannelsFirst, activation);
    let run = |call: &Call<'_>| {
        let (mut dx, mut dgamma, mut dbeta, mut dz) = ([9.0; 4], [9.0; 2], [9.0; 2], [9.0; 4]);
        let result = call([
            Some(Gradient::Overwrite(&mut dx)),
            Some(Gradient::Overwrite(&mut dgamma)),
            Some(Gradient::Overwrite(&mut dbeta)),
            Some(Gradient::Overwrite(&mut dz)),
        ]);
        (result, (dx, dgamma, dbeta, dz) != ([9.0; 4], [9.0; 2], [9.0; 2], [9.0; 4]))
    };
    [
        run(&|[input_gradient, gamma_gradient, beta_gradient, residual_gradient]| {
            let mut buffers = BackwardBuffers {
                input: &[1.0, 2.0, 3.0, 5.0],
                output_gradient: &[1.0, -1.0, 2.0, 4.0],
                activation: state,
                input_gradient,
                gamma_gradient,
                beta_gradient,
                residual_gradient,
                ..Default::default()
            };
            change(&mut buffers);
            bn.backward(&plan, buffers)
        }),
        run(&|[input_gradient, gamma_gradient, beta_gradient, residual_gradient]| {
            let mut buffers = FrozenBackwardBuffers {
                input: Some(&[1.0, 2.0, 3.0, 5.0]),
                output_gradient: &[1.0, -1.0, 2.0, 4.0],
                activation: state,
                running_mean: &[0.0; 2],
                running_variance: &[1.0; 2],
                input_gradient,
                gamma_gradient,
                beta_gradient,
                residual_gradient,
                ..Default::default()
            };
            change_frozen(&mut buffers);
            bn.backward_frozen(&plan, buffers)
        }),
    ]
}

#[test]
fn a_source_that_does_not_serve_the_activation_is_refused() {
    let (y, mask) = ([1.0; 4], [0]);
    for activation in ACTIVATIONS {
        for state in [ActivationState::Output(&y), ActivationState::Mask(&mask), ActivationState::default()] {
            for (result, wrote) in both_backwards(activation, state, |_| {}, |_| {}) {
                if activation.is_piecewise_linear() || state.source() == ActivationSource::Recompute {
                    assert_eq!((result, wrote), (Ok(()), true));
                } else {
                    let refused = Error::ActivationSourceNotServed { activation, from: state.source() };
                    assert_eq!((result, wrote), (Err(refused), false));
                }
            }
        }
    }
}

#[test]
fn wrong_lengths_of_a_backward_are_errors_and_write_nothing() {
    let (three, five) = ([1.0; 3], [1.0; 5]);
    let states = [
        (ActivationState::Recompute { residual: Some(&five[..]) }, "activation.residual", 4, 5),
        (ActivationState::Output(&three[..]), "activation.output", 4, 3),
        (ActivationState::Mask(&[0; 2]), "activation.mask", 1, 2),
        (ActivationState::Mask(&[]), "activation.mask", 1, 0),
    ];
    // Also where nothing of the state would be read.
    for activation in ACTIVATIONS {
        for (state, binding, expected, actual) in states {
            for result in both_backwards(activation, state, |_| {}, |_| {}) {
                assert_eq!(result, (Err(Error::WrongLength { binding, expected, actual }), false));
            }
        }
    }
    let rows: [BackwardRow; 6] = [
        ("input", 4, |buffers| buffers.input = &[1.0]),
        ("output_gradient", 4, |buffers| buffers.output_gradient = &[1.0]),
        ("gamma", 2, |buffers| buffers.gamma = Some(&[1.0])),
        ("beta", 2, |buffers| buffers.beta = Some(&[1.0])),
        ("saved", 2, |buffers| {
            buffers.saved =
                Some(&[ChannelStatistics { pivot: 0.0, offset: 0.0, inverse_deviation: 1.0, variance: 1.0 }]);
        }),
        ("residual_gradient", 4, |buffers| buffers.residual_gradient = Some(Gradient::Accumulate(&mut []))),
    ];
    let frozen_rows: [FrozenBackwardRow; 6] = [
        ("input", 4, |buffers| buffers.input = Some(&[1.0])),
        ("output_gradient", 4, |buffers| buffers.output_gradient = &[1.0]),
        ("gamma", 2, |buffers| buffers.gamma = Some(&[1.0])),
        ("beta", 2, |buffers| buffers.beta = Some(&[1.0])),
        ("running_variance", 2, |buffers| buffers.running_variance = &[1.0]),
        ("residual_gradient", 4, |buffers| buffers.residual_gradient = Some(Gradient::Accumulate(&mut []))),
    ];
    for ((binding, expected, change), (frozen_binding, frozen_expected, frozen_change)) in
        rows.into_iter().zip(frozen_rows)
    {
        let [training, frozen] = both_backwards(Activation::Relu, ActivationState::default(), change, frozen_change);
        let wrong = |binding, expected, result: &(Result<(), Error>, bool)| {
            let (Err(Error::WrongLength { binding: got, expected: needs, .. }), false) = result else {
                panic!("{binding}: {result:?}")
            };
            assert_eq!((*got, *needs), (binding, expected));
        };
        wrong(binding, expected, &training);
        wrong(frozen_binding, frozen_expected, &frozen);
    }
}

#[test]
fn a_backward_of_which_nothing_is_asked_is_refused() {
    let (bn, plan) = activated(&[2, 2], Layout::ChannelsFirst, Activation::Relu);
    let buffers = BackwardBuffers { input: &[1.0_f32; 4], output_gradient: &[1.0; 4], ..Default::default() };
    assert_eq!(bn.backward(&plan, buffers), Err(Error::NoGradientRequested));
    let buffers = FrozenBackwardBuffers {
        input: Some(&[1.0_f32; 4]),
        output_gradient: &[1.0; 4],
        running_mean: &[0.0; 2],
        running_variance: &[1.0; 2],
        ..Default::default()
    };
    assert_eq!(bn.backward_frozen(&plan, buffers), Err(Error::NoGradientRequested));
}

#[test]
fn wrong_lengths_of_a_forward_are_errors_and_write_nothing() {
    let (bn, plan) = activated(&[2, 2], Layout::ChannelsFirst, Activation::Relu);
    for which in 0..4 {
        let (mut y, mut mask, mut health) = ([9.0_f32; 4], [77_u32; 2], [ChannelHealth(77); 2]);
        let mut saved = [ChannelStatistics::default(); 3];
        let mut buffers = TrainingBuffers {
            input: &[1.0, 2.0, 3.0, 5.0],
            output: &mut y,
            residual: Some(&[0.0; 4]),
            activation_mask: Some(&mut mask[..1]),
            health: Some(&mut health),
            ..Default::default()
        };
        let (mut long, mut short) = ([0; 2], [ChannelHealth(0)]);
        let wrong = match which {
            0 => {
                buffers.residual = Some(&[0.0; 3]);
                ("residual", 4, 3)
            }
            1 => {
                buffers.activation_mask = Some(&mut long);
                ("activation_mask", 1, 2)
            }
            2 => {
                buffers.saved = Some(&mut saved);
                ("saved", 2, 3)
            }
            _ => {
                buffers.health = Some(&mut short);
                ("health", 2, 1)
            }
        };
        let (binding, expected, actual) = wrong;
        assert_eq!(bn.training(&plan, buffers), Err(Error::WrongLength { binding, expected, actual }));
        assert_eq!((y, mask, health), ([9.0; 4], [77; 2], [ChannelHealth(77); 2]));
    }
    let (mut y, mut mask) = ([9.0_f32; 4], [77]);
    let buffers = InferenceBuffers {
        input: &[1.0; 4],
        output: &mut y,
        running_mean: &[0.0; 2],
        running_variance: &[1.0; 1],
        activation_mask: Some(&mut mask),
        ..Default::default()
    };
    let expected = Error::WrongLength { binding: "running_variance", expected: 2, actual: 1 };
    assert_eq!((bn.inference(&plan, buffers), y, mask), (Err(expected), [9.0; 4], [77]));
}

#[test]
fn policies_write_nothing_when_they_refuse() {
    let refusals = [
        (1, Convention { one_sample: OneSamplePolicy::Error, ..Convention::pytorch() }, Error::OneSample),
        (0, Convention { empty_batch: EmptyBatchPolicy::Error, ..Convention::pytorch() }, Error::EmptyBatch),
    ];
    for (rows, convention, error) in refusals {
        let (bn, plan) = planned(&[rows, 2], Layout::ChannelsFirst, convention);
        let (x, mut y, mut mask) = (vec![1.0_f32; rows * 2], vec![9.0; rows * 2], vec![77; rows]);
        let mut health = [ChannelHealth(77); 2];
        let buffers = TrainingBuffers {
            input: &x,
            output: &mut y,
            activation_mask: Some(&mut mask),
            health: Some(&mut health),
            ..Default::default()
        };
        assert_eq!(bn.training(&plan, buffers), Err(error.clone()));
        assert_eq!((y, mask, health), (vec![9.0; rows * 2], vec![77; rows], [ChannelHealth(77); 2]));
        let mut dbeta = [9.0; 2];
        let buffers = BackwardBuffers {
            input: &x,
            output_gradient: &x,
            beta_gradient: Some(Gradient::Overwrite(&mut dbeta)),
            ..Default::default()
        };
        assert_eq!((bn.backward(&plan, buffers), dbeta), (Err(error), [9.0; 2]));
    }
}

#[test]
fn wrong_lengths_of_folding_are_errors_and_write_nothing() {
    let bn = BatchNorm::new(&BatchNormDescriptor { channels: 2, ..Default::default() }).unwrap();
    let plan = bn.plan(&Shape::flat(1, 2, 3)).unwrap();
    let rows: [FoldRow; 8] = [
        ("weight", 6, |buffers| buffers.weight = &[1.0]),
        ("bias", 2, |buffers| buffers.bias = Some(&[1.0])),
        ("gamma", 2, |buffers| buffers.gamma = Some(&[1.0])),
        ("beta", 2, |buffers| buffers.beta = Some(&[1.0])),
        ("running_mean", 2, |buffers| buffers.running_mean = &[1.0]),
        ("running_variance", 2, |buffers| buffers.running_variance = &[1.0]),
        ("folded_weight", 6, |buffers| buffers.folded_weight = &mut std::mem::take(&mut buffers.folded_weight)[..1]),
        ("folded_bias", 2, |buffers| buffers.folded_bias = &mut std::mem::take(&mut buffers.folded_bias)[..1]),
    ];
    for (binding, expected, change) in rows {
        let (mut weight, mut bias) = ([9.0; 6], [9.0; 2]);
        let mut buffers = FoldBuffers {
            weight: &[1.0; 6],
            running_mean: &[0.0; 2],
            running_variance: &[1.0; 2],
            folded_weight: &mut weight,
            folded_bias: &mut bias,
            ..Default::default()
        };
        change(&mut buffers);
        assert_eq!(bn.fold(&plan, buffers), Err(Error::WrongLength { binding, expected, actual: 1 }));
        assert_eq!((weight, bias), ([9.0; 6], [9.0; 2]));
    }
    let (_, other) = activated(&[3, 2], Layout::ChannelsFirst, Activation::Relu);
    assert_eq!(bn.fold::<f32>(&other, FoldBuffers::default()), Err(Error::PlanMismatch));
}
