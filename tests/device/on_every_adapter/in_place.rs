//! Results in the place of what they are made of.

use crate::common::case::{Case, Results};
use crate::common::on_every_target;
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{Activation, ActivationSource, ElementType};

/// Everything that any operation produced, by name.
pub(super) fn bits(results: &Results) -> Vec<(&'static str, Vec<u32>)> {
    let of = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    vec![
        ("output", of(&results.output)),
        ("running_mean", of(&results.running_mean)),
        ("running_variance", of(&results.running_variance)),
        ("saved", bytemuck::cast_slice(&results.saved).to_vec()),
        ("mask", results.mask.clone()),
        ("inference", of(&results.inference)),
        ("inference_mask", results.inference_mask.clone()),
        ("input_gradient", of(&results.input_gradient)),
        ("residual_gradient", of(&results.residual_gradient)),
        ("gamma_gradient", of(&results.gamma_gradient)),
        ("beta_gradient", of(&results.beta_gradient)),
        ("frozen_input_gradient", of(&results.frozen_input_gradient)),
        ("frozen_residual_gradient", of(&results.frozen_residual_gradient)),
        ("frozen_gamma_gradient", of(&results.frozen_gamma_gradient)),
        ("frozen_beta_gradient", of(&results.frozen_beta_gradient)),
    ]
}

#[test]
fn in_place_gives_the_same_bits_as_out_of_place() {
    let (f32, f16) = (ElementType::F32, ElementType::F16);
    // Whole, shared and cut-off units, in rows, in columns and in quads. What is fused is carried out by a split, the rest in one
    // dispatch.
    let cases: [(&[usize], ElementType, bool); 12] = [
        (&[4, 8, 65], f32, true),
        (&[4, 8, 65], f16, false),
        (&[4, 8, 65], f32, false),
        (&[2, 6, 64], f32, false),
        (&[2, 6, 64], f16, true),
        (&[4, 5, 65], f32, true),
        (&[4, 5, 65], f16, false),
        (&[4, 5, 65], f32, false),
        (&[12, 8], f32, true),
        (&[12, 8], f16, false),
        (&[13, 7], f32, false),
        (&[13, 7], f16, true),
    ];
    // Pipelines take long on software drivers, so each plan takes a part of the cases.
    on_every_target(|target| {
        for (seed, (shape, element, fused)) in (0..).zip(cases).skip(target.plan).step_by(target.plans) {
            let mut case = Case::random(shape, ChannelsFirst, seed).stored_as(element);
            if fused {
                case = case.fused(Activation::Relu, true, ActivationSource::Mask);
                case.returns_residual_gradient = true;
            }
            let out_of_place = bits(&case.run_device(target).unwrap());
            let in_place = bits(&Case { in_place: true, ..case }.run_device(target).unwrap());
            for ((name, expected), (_, got)) in out_of_place.iter().zip(&in_place) {
                assert_eq!(got, expected, "{target}: {element} {shape:?}, fused: {fused}: {name}");
            }
        }
    });
}
