//! What an activation and its derivative cost beside t, which is exact here: x, through a mean of 0 and a variance of 1.

use crate::common::case::Case;
use crate::common::tolerance::{ACTIVATION_EVALUATION, DERIVATIVE_EVALUATION, Worst};
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{Activation, ActivationSource};

/// y of inference and dx through frozen statistics at each t, with g = 1.
fn at(target: &Target, activation: Activation, source: ActivationSource, t: &[f32]) -> [Vec<f32>; 2] {
    let mut case = Case::random(&[1, 1, t.len()], ChannelsFirst, 1).fused(activation, false, source);
    case.trains = false;
    case.convention.epsilon = 0.0;
    (case.gamma, case.beta) = (None, None);
    (case.running_mean, case.running_variance) = (vec![0.0], vec![1.0]);
    case.input = t.to_vec();
    case.output_gradient = vec![1.0; t.len()];
    let results = case.run_device(target).unwrap();
    [results.inference, results.frozen_input_gradient]
}

/// Both sides of 0: evenly to 12, in steps of a fifth from the smallest normal number to the largest, on both sides of where exp
/// and the tails are given up, and the smallest and the largest subnormal number.
fn arguments() -> Vec<f32> {
    let even = (0..48_000).map(|step| 12.0 * (step as f32 + 0.37) / 48_000.0);
    let wide = std::iter::successors(Some(f32::MIN_POSITIVE), |t| Some(t * 1.2)).take_while(|t| t.is_finite());
    let ends = [13.0, 30.0, 87.0, 104.0].into_iter().flat_map(|end: f32| [end.next_down(), end, end.next_up()]);
    let subnormal = [f32::from_bits(1), f32::MIN_POSITIVE.next_down()];
    let positive: Vec<f32> = even.chain(wide).chain(ends).chain(subnormal).collect();
    positive.iter().flat_map(|t| [*t, -t]).chain([0.0]).collect()
}

#[test]
fn smooth_activations_are_right_to_a_few_roundings_at_every_argument() {
    on_every_target(|target| {
        let t = arguments();
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let [y, slope] = at(target, activation, ActivationSource::Recompute, &t);
            let (mut worst_y, mut worst_slope) = (Worst::default(), Worst::default());
            for (index, &t) in t.iter().enumerate() {
                let wide = f64::from(t);
                let (value, derivative) = (activation.value(wide) as f32, activation.derivative(wide) as f32);
                worst_y.see(&format!("f({t:e})"), index, y[index], value, ACTIVATION_EVALUATION * wide.abs());
                let name = format!("f'({t:e})");
                worst_slope.see(&name, index, slope[index], derivative, DERIVATIVE_EVALUATION);
            }
            println!(
                "{target}: {activation}: {:.2} {}, {:.2} {}",
                worst_y.ratio, worst_y.place, worst_slope.ratio, worst_slope.place
            );
            for worst in [worst_y, worst_slope] {
                assert!(worst.ratio <= 1.0, "{target}: {activation}: {worst:?}");
            }
        }
    });
}

#[test]
fn smooth_activations_have_their_limits_at_infinity_and_keep_nan() {
    on_every_target(|target| {
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let t = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -f32::MAX, f32::MAX];
            let [y, slope] = at(target, activation, ActivationSource::Recompute, &t);
            let place = format!("{target}: {activation}: {y:?} {slope:?}");
            assert!(y[0] == 0.0 && y[1] == f32::INFINITY && y[2].is_nan(), "{place}");
            assert!(slope[0] == 0.0 && slope[1] == 1.0 && slope[2].is_nan(), "{place}");
            assert!(y[3] == 0.0 && y[4] == f32::MAX && slope[3] == 0.0 && slope[4] == 1.0, "{place}");
        }
    });
}

#[test]
fn piecewise_linear_activations_have_the_slope_of_their_definition_at_zero() {
    let sources = [ActivationSource::Recompute, ActivationSource::Output, ActivationSource::Mask];
    on_every_target(|target| {
        // Pipelines take long on software drivers, so each plan takes a part of the sources.
        for source in sources.into_iter().skip(target.plan).step_by(target.plans) {
            for activation in [Activation::Relu, Activation::LeakyRelu { slope: 0.25 }] {
                let t = [0.0, -0.0, 1.0, -1.0, 0.0, 0.5, -0.5];
                let [y, slope] = at(target, activation, source, &t);
                let expected = |f: &dyn Fn(f64) -> f64| t.map(|t| f(f64::from(t)) as f32);
                let place = format!("{target}: {activation} by {source:?}");
                assert_eq!(y, expected(&|t| activation.value(t)), "{place}");
                assert_eq!(slope, expected(&|t| activation.derivative(t)), "{place}");
            }
        }
    });
}
