//! Storage types: one rounding, to nearest, ties to even.

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::{
    ActivationState, BackwardBuffers, Element, FrozenBackwardBuffers, Gradient, InferenceBuffers, TrainingBuffers,
};
use wgpu_batch_norm::{Activation, Layout};

use super::{ACTIVATIONS, activated};

/// Every finite value of a type with 16 bits, and the power of two past the largest.
fn check_every_tie<T: Element>(from_bits: fn(u16) -> T, to_bits: fn(T) -> u16, infinity: u16, past_the_end: f64) {
    for bits in 0..infinity {
        let (below, next) = (from_bits(bits).to_f64(), bits + 1);
        let above = if next == infinity { past_the_end } else { from_bits(next).to_f64() };
        let tie = (below + above) / 2.0;
        let even = if bits % 2 == 0 { bits } else { next };
        let rows = [
            (below, bits),
            (below.next_up(), bits),
            (tie.next_down(), bits),
            (tie, even),
            (tie.next_up(), next),
            (above.next_down(), next),
        ];
        for (value, expected) in rows {
            assert_eq!(to_bits(T::from_f64(value)), expected, "{value:e}");
            assert_eq!(to_bits(T::from_f64(-value)), expected | 0x8000, "-{value:e}");
        }
    }
    for value in [past_the_end, 1e300, f64::MAX, f64::INFINITY] {
        assert_eq!(to_bits(T::from_f64(value)), infinity);
        assert_eq!(to_bits(T::from_f64(-value)), infinity | 0x8000);
    }
    assert_eq!(to_bits(T::from_f64(f64::from_bits(1))), 0);
    for nan in [f64::NAN, -f64::NAN, f64::from_bits(0x7FF0_0000_0000_0001)] {
        assert!(T::from_f64(nan).to_f64().is_nan());
    }
}

#[test]
fn sixteen_bits_are_rounded_once() {
    check_every_tie(f16::from_bits, f16::to_bits, 0x7C00, 65536.0);
    check_every_tie(bf16::from_bits, bf16::to_bits, 0x7F80, 2.0_f64.powi(128));
}

/// Tensors of 16 bits give what f64 gives for the same values, rounded once.
fn check_tensors<T: Element>() {
    for activation in ACTIVATIONS {
        let (bn, plan) = activated(&[5, 3, 7], Layout::ChannelsFirst, activation);
        let mut rng = StdRng::seed_from_u64(1);
        let mut random = || -> Vec<T> { (0..105).map(|_| T::from_f64(rng.random_range(-2.0..3.0))).collect() };
        let (x, z, g) = (random(), random(), random());
        let wide = |values: &[T]| -> Vec<f64> { values.iter().map(|value| value.to_f64()).collect() };
        let (mut y, mut y_wide) = (vec![T::from_f64(0.0); 105], vec![0.0; 105]);
        let buffers = TrainingBuffers { input: &x, output: &mut y, residual: Some(&z), ..Default::default() };
        bn.training(&plan, buffers).unwrap();
        let (x_wide, z_wide) = (wide(&x), wide(&z));
        let buffers =
            TrainingBuffers { input: &x_wide, output: &mut y_wide, residual: Some(&z_wide), ..Default::default() };
        bn.training(&plan, buffers).unwrap();
        let rounded =
            |values: &[f64]| -> Vec<f64> { values.iter().map(|value| T::from_f64(*value).to_f64()).collect() };
        assert_eq!(wide(&y), rounded(&y_wide), "{activation}");

        let (mut dx, mut dx_wide) = (vec![T::from_f64(0.0); 105], vec![0.0; 105]);
        bn.backward(
            &plan,
            BackwardBuffers {
                input: &x,
                output_gradient: &g,
                activation: ActivationState::Recompute { residual: Some(&z) },
                input_gradient: Some(Gradient::Overwrite(&mut dx)),
                ..Default::default()
            },
        )
        .unwrap();
        bn.backward(
            &plan,
            BackwardBuffers {
                input: &x_wide,
                output_gradient: &wide(&g),
                activation: ActivationState::Recompute { residual: Some(&z_wide) },
                input_gradient: Some(Gradient::Overwrite(&mut dx_wide)),
                ..Default::default()
            },
        )
        .unwrap();
        assert_eq!(wide(&dx), rounded(&dx_wide), "{activation}");
    }
}

#[test]
fn tensors_of_sixteen_bits_are_those_of_f64_rounded_once() {
    check_tensors::<f16>();
    check_tensors::<bf16>();
}

#[test]
fn a_positive_pre_activation_that_rounds_to_zero_counts_as_zero_from_the_output_only() {
    let (bn, plan) = activated(&[1, 1], Layout::ChannelsFirst, Activation::Relu);
    let (x, mean, variance, gamma) = ([f16::ONE], [0.0], [1.0], [1e-9_f32]);
    let (mut y, mut mask) = ([f16::NAN], [0]);
    let buffers = InferenceBuffers {
        input: &x,
        output: &mut y,
        gamma: Some(&gamma),
        running_mean: &mean,
        running_variance: &variance,
        activation_mask: Some(&mut mask),
        ..Default::default()
    };
    bn.inference(&plan, buffers).unwrap();
    assert_eq!((y, mask), ([f16::ZERO], [1]));
    let states = [
        (ActivationState::Recompute { residual: None }, 3.0),
        (ActivationState::Output(&y), 0.0),
        (ActivationState::Mask(&mask), 3.0),
    ];
    for (activation, expected) in states {
        let mut dz = [f16::NAN];
        let buffers = FrozenBackwardBuffers {
            input: Some(&x),
            output_gradient: &[f16::from_f32(3.0)],
            gamma: Some(&gamma),
            running_mean: &mean,
            running_variance: &variance,
            activation,
            residual_gradient: Some(Gradient::Overwrite(&mut dz)),
            ..Default::default()
        };
        bn.backward_frozen(&plan, buffers).unwrap();
        assert_eq!(dz[0].to_f32(), expected);
    }
}
