//! Devices against the reference: every operation, on every adapter of the machine.

mod common;

use common::case::Case;
use common::targets;
use common::tolerance::compare;
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};

/// Shapes that reach every kernel: both families, both accesses, one and many splits, cut-off super-rows and units.
const SHAPES: [(&[usize], Layout); 46] = [
    (&[2, 1], ChannelsFirst),
    (&[3, 1], ChannelsFirst),
    (&[5, 3], ChannelsFirst),
    (&[4, 4], ChannelsLast),
    (&[60, 100], ChannelsFirst),
    (&[257, 31], ChannelsFirst),
    (&[1024, 512], ChannelsFirst),
    (&[4099, 5], ChannelsFirst),
    (&[100_003, 1], ChannelsFirst),
    (&[2, 2048], ChannelsFirst),
    (&[3, 100_000], ChannelsFirst),
    (&[2, 3, 2], ChannelsFirst),
    (&[7, 5, 3], ChannelsFirst),
    (&[7, 3, 5], ChannelsLast),
    (&[1, 3, 13], ChannelsFirst),
    (&[9, 2, 13], ChannelsFirst),
    (&[33, 6, 15], ChannelsFirst),
    (&[33, 6, 16], ChannelsFirst),
    (&[33, 6, 17], ChannelsFirst),
    (&[1, 1, 1_000_003], ChannelsFirst),
    (&[1, 1, 1_000_004], ChannelsFirst),
    (&[1, 3, 63], ChannelsFirst),
    (&[1, 3, 64], ChannelsFirst),
    (&[1, 3, 65], ChannelsFirst),
    (&[3, 3, 64], ChannelsFirst),
    (&[8, 16, 7, 7], ChannelsFirst),
    (&[8, 7, 7, 16], ChannelsLast),
    (&[1, 2048, 7, 7], ChannelsFirst),
    (&[1, 7, 7, 2048], ChannelsLast),
    (&[3, 64, 14, 14], ChannelsFirst),
    (&[3, 14, 14, 64], ChannelsLast),
    (&[4, 8, 56, 56], ChannelsFirst),
    (&[4, 56, 56, 8], ChannelsLast),
    (&[2, 3, 224, 224], ChannelsFirst),
    (&[2, 224, 224, 3], ChannelsLast),
    (&[2, 1, 33, 31], ChannelsFirst),
    (&[2, 33, 31, 1], ChannelsLast),
    (&[16, 32, 8, 8], ChannelsFirst),
    (&[16, 8, 8, 32], ChannelsLast),
    (&[2, 3, 4, 5, 6], ChannelsFirst),
    (&[2, 4, 5, 6, 3], ChannelsLast),
    (&[2, 5, 3, 11, 13], ChannelsFirst),
    (&[2, 3, 11, 13, 5], ChannelsLast),
    (&[2, 70_001, 2], ChannelsFirst),
    (&[40, 257, 1, 1], ChannelsFirst),
    (&[2, 3, 1, 1, 1], ChannelsLast),
];

#[test]
fn every_operation_meets_the_reference_on_every_shape() {
    let (targets, _turn) = targets();
    let mut failures = Vec::new();
    for target in targets {
        for (seed, (shape, layout)) in (0..).zip(SHAPES) {
            let case = Case::random(shape, layout, seed);
            let truth = case.run_reference().unwrap();
            let got = case.run_device(target).unwrap();
            let worst = compare(&case, &got, &truth);
            println!("{}: {shape:?} {layout:?}: {:.3} {}", target.gpu.info.name, worst.ratio, worst.place);
            if worst.ratio > 1.0 {
                failures.push(format!("{}: {shape:?} {layout:?}: {:.2} × {}", target.gpu, worst.ratio, worst.place));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
