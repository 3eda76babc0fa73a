//! The mask that forward leaves for backward.

use crate::common::case::Case;
use crate::common::on_every_target;
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{Activation, ActivationSource, ElementType};

/// What masks hold before a run.
const BEFORE: u32 = 0x5a5a_5a5a;

#[test]
fn masks_hold_the_signs_of_preactivations_and_keep_bits_past_the_end() {
    let cases: [(&[usize], ElementType, Activation, bool); 5] = [
        (&[5, 8, 9], ElementType::F32, Activation::Relu, true),
        (&[5, 8, 9], ElementType::F16, Activation::Relu, true),
        (&[13, 7], ElementType::F32, Activation::Relu, true),
        (&[3, 5, 65], ElementType::F16, Activation::LeakyRelu { slope: 0.1 }, false),
        (&[4, 3, 64], ElementType::Bf16, Activation::Relu, true),
    ];
    // Pipelines take long on software drivers, so each plan takes a part of the cases.
    on_every_target(|target| {
        for (seed, (shape, element, activation, residual)) in (0..).zip(cases).skip(target.plan).step_by(target.plans) {
            let case = Case::random(shape, ChannelsFirst, seed).stored_as(element);
            let case = case.fused(activation, residual, ActivationSource::Mask);
            let got = case.run_device(target).unwrap();
            for (mask, frozen) in [(&got.mask, false), (&got.inference_mask, true)] {
                let place = format!("{target}: {element} {shape:?}, frozen: {frozen}");
                let signs = case.preactivations(frozen);
                assert_eq!(mask.len(), signs.len().div_ceil(32), "{place}");
                let bit = |word: u32, index: usize| word >> (index % 32) & 1 == 1;
                let mut positive = 0;
                for (index, t) in signs.iter().enumerate().filter(|(_, t)| t.abs() > 1e-3) {
                    assert_eq!(bit(mask[index / 32], index), *t > 0.0, "{place}: [{index}] {t}");
                    positive += usize::from(*t > 0.0);
                }
                assert!(positive > 0 && positive < signs.len(), "{place}: both signs occur");
                for index in signs.len()..32 * mask.len() {
                    assert_eq!(bit(mask[index / 32], index), bit(BEFORE, index), "{place}: past the end [{index}]");
                }
            }
            let again = case.run_device(target).unwrap();
            assert_eq!((&again.mask, &again.inference_mask), (&got.mask, &got.inference_mask), "{target}: {shape:?}");
            assert_eq!(super::bits(&again), super::bits(&got), "{target}: {element} {shape:?}: equal bits");
        }
    });
}
