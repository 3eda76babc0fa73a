//! Kernels that hold their blocks from the reduction to the map, with what backward needs of them found once.

use crate::common::case::{Case, Results};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{Activation, ActivationSource, Family, Plan, Strategies, Strategy};

/// Rows that share units with their neighbours and whole ones, short and long.
const SHAPES: [&[usize]; 5] = [&[9, 5, 7], &[3, 6, 265], &[41, 6], &[6, 8, 16], &[9, 8, 7]];

/// Their derivative is taken at a pre-activation that is computed again; everything else that is fused is carried out by splits,
/// but for backward from the output (`output_backward.rs`).
const ACTIVATIONS: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::LeakyRelu { slope: 0.1 }];

/// Backward by a strategy, where it is served.
fn run(target: &Target, case: &Case, strategy: Strategy) -> Option<Results> {
    let pin = Strategies { backward: Some(strategy), ..Default::default() };
    Plan::with_strategies(&case.descriptor(), &case.shape(), target.kernels.profile(), pin).ok()?;
    Some(case.run_device_with(target, pin).unwrap())
}

#[test]
fn held_blocks_go_back_through_activations_and_past_a_channel_of_nan() {
    on_every_target(|target| {
        let mut served = [0; 3];
        // Pipelines take long on software drivers, so each plan takes a part of the activations.
        for activation in ACTIVATIONS.into_iter().skip(target.plan).step_by(target.plans) {
            for (seed, shape) in (0..).zip(SHAPES) {
                let clean = Case::random(shape, ChannelsFirst, seed);
                let clean = clean.fused(activation, false, ActivationSource::Recompute);
                let truth = clean.run_reference().unwrap();
                let mut odd = clean.clone();
                for index in (0..odd.input.len()).filter(|&index| clean.channel(index) == 1) {
                    (odd.input[index], odd.output_gradient[index]) = (f32::NAN, f32::NAN);
                }
                for (which, family) in [Family::Rows, Family::Columns, Family::Quads].into_iter().enumerate() {
                    let strategy = Strategy::Resident(family);
                    let Some(got) = run(target, &clean, strategy) else { continue };
                    let place = format!("{target}: {shape:?} {activation} {strategy}");
                    let worst = compare(&clean, &got, &truth);
                    assert!(worst.ratio <= 1.0, "{place}: {worst:?}");
                    let beside = run(target, &odd, strategy).unwrap();
                    for (name, got, expected, tensor) in [
                        ("input_gradient", &beside.input_gradient, &got.input_gradient, true),
                        ("frozen_input_gradient", &beside.frozen_input_gradient, &got.frozen_input_gradient, true),
                        ("gamma_gradient", &beside.gamma_gradient, &got.gamma_gradient, false),
                        ("beta_gradient", &beside.beta_gradient, &got.beta_gradient, false),
                    ] {
                        for index in 0..got.len() {
                            let channel = if tensor { clean.channel(index) } else { index };
                            let same = got[index].to_bits() == expected[index].to_bits();
                            assert!(same || channel == 1, "{place}: {name}[{index}] beside NaN");
                        }
                    }
                    served[which] += 1;
                }
            }
        }
        println!("{target}: {served:?} by rows, columns and quads");
        assert!(served.iter().all(|&served| served > 0), "{target}: {served:?}");
    });
}
