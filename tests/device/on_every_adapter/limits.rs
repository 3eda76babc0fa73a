//! Devices that are opened with fewer of everything than the adapter has: what WebGPU guarantees, and less.

use super::ADVERSARIAL_SHAPES;
use super::in_place::bits;
use crate::common::case::{Case, Padding, Segments};
use crate::common::support;
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use std::sync::Arc;
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{
    Activation, ActivationSource, ElementType, Error, Kernels, KernelsDescriptor, SegmentRunning, ShaderChecks, wgpu,
};

/// A target of the same class on a device with limits of the test's choice.
fn within(target: &Target, limits: impl Fn(wgpu::Limits) -> wgpu::Limits) -> Target {
    let mut gpus = support::open_all_within(limits).into_iter();
    let gpu = gpus.find(|gpu| gpu.info == target.gpu.info).expect("the adapter is still there");
    let descriptor = KernelsDescriptor { class: Some(target.kernels.profile().class), ..Default::default() };
    let kernels = Kernels::with_descriptor(&gpu.device, &descriptor);
    Target { kernels, checks: ShaderChecks::Trusted, gpu: Arc::new(gpu), ..*target }
}

fn fused_segmented_and_padded() -> [Case; 3] {
    let plain = |shape: &[usize], seed| Case::random(shape, ChannelsFirst, seed);
    let mut fused = plain(&[6, 40, 20], 1).stored_as(ElementType::F16);
    fused = fused.fused(Activation::Relu, true, ActivationSource::Mask);
    fused.returns_residual_gradient = true;
    fused.reports_health = true;
    let segmented = plain(&[8, 120, 12], 2).segmented(Segments::SubBatches(4), SegmentRunning::Averaged);
    let mut padded = plain(&[7, 130, 31], 3);
    padded.padding = Some(Padding::Flags((0..7 * 31).map(|position| position % 5 != 2).collect()));
    [fused, segmented, padded]
}

/// `src/plan/tests.rs::workgroups_beyond_what_a_dimension_holds_are_folded` shows that such grids have a second dimension.
#[test]
fn folded_grids_give_the_bits_of_grids_of_one_dimension() {
    on_every_target(|target| {
        let narrow = within(target, |limits| wgpu::Limits { max_compute_workgroups_per_dimension: 64, ..limits });
        let mut served = 0;
        let shapes: [&[usize]; 4] = [&[9, 500, 7, 7], &[3000, 300], &[40, 37, 400], &[2, 500, 64]];
        // Pipelines take long on software drivers, so each plan takes a part of them.
        let shapes = shapes.into_iter().enumerate().filter(|(index, _)| index % target.plans == target.plan);
        let plain = shapes.map(|(index, shape)| Case::random(shape, ChannelsFirst, index as u64));
        for case in plain.chain(fused_segmented_and_padded().into_iter().skip(target.plan).step_by(target.plans)) {
            let got = match case.run_device(&narrow) {
                Err(Error::LimitExceeded { limit: "max_compute_workgroups_per_dimension", .. }) => continue,
                got => bits(&got.unwrap()),
            };
            assert!(got == bits(&case.run_device(target).unwrap()), "{target}: {:?}", case.shape);
            served += 1;
        }
        assert!(served > 0, "{target}");
    });
}

#[test]
fn devices_with_the_limits_that_webgpu_guarantees_and_with_less_meet_the_reference() {
    on_every_target(|target| {
        let webgpu = wgpu::Limits::default();
        let less = wgpu::Limits {
            max_compute_invocations_per_workgroup: 32,
            max_compute_workgroup_size_x: 32,
            max_compute_workgroup_storage_size: 2 << 10,
            max_storage_buffer_binding_size: 64 << 10,
            ..webgpu.clone()
        };
        let limits = if target.plan.is_multiple_of(2) { webgpu } else { less };
        let small = within(target, |_| limits.clone());
        let given = small.gpu.device.limits();
        assert_eq!(given.max_storage_buffer_binding_size, limits.max_storage_buffer_binding_size, "{target}");
        assert_eq!(given.min_storage_buffer_offset_alignment, 256, "{target}");
        let plain = (0..).zip(ADVERSARIAL_SHAPES).skip(target.plan).step_by(target.plans);
        let plain = plain.map(|(seed, (shape, layout))| Case::random(shape, layout, seed));
        for case in plain.chain(fused_segmented_and_padded().into_iter().skip(target.plan).step_by(target.plans)) {
            let truth = case.run_reference().unwrap();
            let worst = compare(&case, &case.run_device(&small).unwrap(), &truth);
            assert!(worst.ratio <= 1.0, "{target}: {:?}: {worst:?}", case.shape);
        }
    });
}
