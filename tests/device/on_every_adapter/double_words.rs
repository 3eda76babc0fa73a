//! Tensors loaded by 64-bit integers, where a device has them: what lavapipe is given, and what nothing but speed may tell.

use super::in_place::bits;
use crate::common::case::Case;
use crate::common::{Target, on_every_target};
use std::sync::Arc;
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{Activation, ActivationSource, AdapterClass, ElementType, Kernels, KernelsDescriptor, Layout};

/// Rows of whole and of shared units, quads and columns; the reference tests have all the other kernels. Compiling takes long, so each
/// has one element type.
const SHAPES: [(&[usize], Layout, ElementType); 4] = [
    (&[4, 12, 8, 8], ChannelsFirst, ElementType::F32),
    (&[4, 6, 9, 7], ChannelsFirst, ElementType::F32),
    (&[5, 8, 7, 7], ChannelsFirst, ElementType::F16),
    (&[70, 132], ChannelsLast, ElementType::Bf16),
];

fn with_double_words(target: &Target, double_words: bool) -> Target {
    let profile = target.kernels.profile();
    let descriptor = KernelsDescriptor {
        class: Some(profile.class),
        checks: target.checks,
        double_words: Some(double_words),
        ..Default::default()
    };
    let kernels = Kernels::with_descriptor(&target.gpu.device, &descriptor);
    Target { gpu: Arc::clone(&target.gpu), kernels, ..*target }
}

#[test]
fn loads_by_64_bit_integers_change_no_bit() {
    on_every_target(|target| {
        let [without, with] = [false, true].map(|double_words| with_double_words(target, double_words));
        assert!(!without.kernels.double_words(), "{target}");
        if !with.kernels.double_words() {
            return;
        }
        for (seed, (shape, layout, element)) in (0..).zip(SHAPES) {
            let case = Case::random(shape, layout, seed).stored_as(element);
            let case = if seed % 2 == 0 { case } else { case.fused(Activation::Relu, true, ActivationSource::Output) };
            let expected = bits(&case.run_device(&without).unwrap());
            let got = bits(&case.run_device(&with).unwrap());
            for ((name, expected), (_, got)) in expected.into_iter().zip(got) {
                assert!(got == expected, "{target}: {shape:?} {layout:?} {element:?}: {name}");
            }
        }
    });
}

/// Devices of examples and tests ask for [`wgpu_batch_norm::OPTIONAL_FEATURES`].
#[test]
fn loads_are_by_64_bit_integers_on_lavapipe_and_nowhere_else_unless_asked_for() {
    on_every_target(|target| {
        let llvmpipe = target.gpu.info.name.contains("llvmpipe");
        let vulkan = target.gpu.info.backend == wgpu::Backend::Vulkan;
        let software = target.kernels.profile().class == AdapterClass::Cpu;
        assert_eq!(target.kernels.double_words(), llvmpipe && vulkan && software, "{target}");
    });
}
