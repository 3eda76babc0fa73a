//! Backward from the output against backward from the input.

use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_oneof, proptest};
use wgpu_batch_norm::reference::{self, BackwardBuffers, Gradient, OutputBackwardBuffers, TrainingBuffers};
use wgpu_batch_norm::{Activation, BatchNormDescriptor, ChannelStatistics, Error, Shape};

fn batch_norm(channels: u32, activation: Activation) -> reference::BatchNorm {
    reference::BatchNorm::new(&BatchNormDescriptor { channels, activation, ..Default::default() }).unwrap()
}

fn invertible() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::Identity), (0.01..2.0_f64).prop_map(|slope| Activation::LeakyRelu { slope })]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn gradients_are_those_of_backward_from_the_input_for_gamma_of_either_sign(
        activation in invertible(),
        values in proptest::collection::vec((-3.0..3.0_f64, -1.0..1.0_f64), 24),
        gamma in proptest::collection::vec(prop_oneof![0.2..2.0_f64, -2.0..-0.2_f64], 3),
        beta in proptest::collection::vec(-1.0..1.0_f64, 3),
    ) {
        let bn = batch_norm(3, activation);
        let plan = bn.plan(&Shape::new(&[4, 3, 2]).unwrap()).unwrap();
        let (x, g): (Vec<f64>, Vec<f64>) = values.into_iter().unzip();
        let (mut y, mut saved) = (vec![0.0; 24], [ChannelStatistics::default(); 3]);
        bn.training(&plan, TrainingBuffers {
            input: &x,
            output: &mut y,
            gamma: Some(&gamma),
            beta: Some(&beta),
            saved: Some(&mut saved),
            ..Default::default()
        }).unwrap();
        let mut truth = (vec![0.0; 24], vec![0.0; 3], vec![0.0; 3]);
        bn.backward(&plan, BackwardBuffers {
            input: &x,
            output_gradient: &g,
            gamma: Some(&gamma),
            beta: Some(&beta),
            saved: Some(&saved),
            input_gradient: Some(Gradient::Overwrite(&mut truth.0)),
            gamma_gradient: Some(Gradient::Overwrite(&mut truth.1)),
            beta_gradient: Some(Gradient::Overwrite(&mut truth.2)),
            ..Default::default()
        }).unwrap();
        let mut got = (vec![0.0; 24], vec![1.0; 3], vec![1.0; 3]);
        bn.backward_from_output(&plan, OutputBackwardBuffers {
            output: &y,
            output_gradient: &g,
            gamma: Some(&gamma),
            beta: Some(&beta),
            saved: &saved,
            input_gradient: Some(Gradient::Overwrite(&mut got.0)),
            gamma_gradient: Some(Gradient::Accumulate(&mut got.1)),
            beta_gradient: Some(Gradient::Accumulate(&mut got.2)),
            valid: None,
        }).unwrap();
        // The saved statistics are f32, and both see x through them; y was made with those in f64.
        let scale = saved.iter().map(|record| f64::from(record.inverse_deviation)).fold(1.0, f64::max);
        for (got, truth) in got.0.iter().zip(&truth.0) {
            prop_assert!((got - truth).abs() <= 1e-4 * scale, "dx: {got} {truth}");
        }
        for (got, truth) in got.1.iter().zip(&truth.1).chain(got.2.iter().zip(&truth.2)) {
            prop_assert!((got - 1.0 - truth).abs() <= 1e-4 * scale, "sums: {got} {truth}");
        }
    }
}

/// An x̂ that is not rounded is never limited, at its largest too; one that rounding alone has made is.
#[test]
fn the_normalised_value_is_limited_to_what_it_can_be() {
    let run = |gamma: f64, output: [f64; 4]| {
        let bn = batch_norm(1, Activation::Identity);
        let (mut dx, mut dgamma) = ([0.0; 4], [0.0]);
        bn.backward_from_output(
            &bn.plan(&Shape::new(&[4, 1]).unwrap()).unwrap(),
            OutputBackwardBuffers {
                output: &output,
                output_gradient: &[1.0, 0.0, 0.0, 0.0],
                gamma: Some(&[gamma]),
                beta: Some(&[1.0]),
                saved: &[ChannelStatistics { inverse_deviation: 1.0, ..Default::default() }],
                input_gradient: Some(Gradient::Overwrite(&mut dx)),
                gamma_gradient: Some(Gradient::Overwrite(&mut dgamma)),
                beta_gradient: None,
                valid: None,
            },
        )
        .unwrap();
        (dx, dgamma[0])
    };
    // One of four stands out: x̂ = √3, and three times −1/√3.
    let root = 3.0_f64.sqrt();
    let (dx, dgamma) = run(-2.0, [1.0 - 2.0 * root, 1.0 + 2.0 / root, 1.0 + 2.0 / root, 1.0 + 2.0 / root]);
    assert!((dgamma - root).abs() < 1e-12 && dx.iter().all(|dx| dx.abs() < 1e-12), "{dgamma} {dx:?}");
    // A last digit of y, over a gamma of 1e-30, is 2e14.
    let (dx, dgamma) = run(1e-30, [1.0 + f64::EPSILON, 1.0, 1.0, 1.0 - f64::EPSILON]);
    assert_eq!(dgamma, 2.0);
    assert!(dx.iter().all(|dx| dx.abs() <= 6e-30), "{dx:?}");
}

#[test]
fn what_has_no_inverse_is_refused_before_anything_is_written() {
    let saved = [ChannelStatistics { inverse_deviation: 1.0, ..Default::default() }; 2];
    let run = |activation, gamma: &[f32], wanted: bool| {
        let bn = batch_norm(2, activation);
        let plan = bn.plan(&Shape::new(&[2, 2]).unwrap()).unwrap();
        let mut dx = [7.0_f32; 4];
        let result = bn.backward_from_output(
            &plan,
            OutputBackwardBuffers {
                output: &[1.0, 2.0, 3.0, 4.0],
                output_gradient: &[1.0; 4],
                gamma: Some(gamma),
                beta: None,
                saved: &saved,
                input_gradient: wanted.then_some(Gradient::Overwrite(&mut dx)),
                gamma_gradient: None,
                beta_gradient: None,
                valid: None,
            },
        );
        assert!(result.is_ok() || dx == [7.0; 4]);
        result
    };
    for activation in [Activation::Relu, Activation::LeakyRelu { slope: 0.0 }, Activation::Silu, Activation::Gelu] {
        assert_eq!(run(activation, &[1.0, 1.0], true), Err(Error::NotInvertible { activation }));
    }
    assert_eq!(run(Activation::Identity, &[1.0, 0.0], true), Err(Error::ZeroGamma { channel: 1 }));
    assert_eq!(run(Activation::Identity, &[1.0, 1.0], false), Err(Error::NoGradientRequested));
    assert_eq!(run(Activation::Identity, &[1.0, -1.0], true), Ok(()));
}
