//! The same kernels, and one batch norm, in many threads.

use std::sync::{Arc, Barrier, Mutex};

use super::determinism::Layer;
use super::in_place::bits;
use crate::common::case::Case;
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{BatchNorm, Kernels, KernelsDescriptor, ShaderChecks, Strategies};

#[test]
fn threads_that_bind_and_record_at_once_get_what_each_gets_alone() {
    const THREADS: usize = 4;
    on_every_target(|target| {
        // Fresh kernels, so that threads compile the same pipelines at once.
        let descriptor = KernelsDescriptor { class: Some(target.kernels.profile().class), ..Default::default() };
        let kernels = Kernels::with_descriptor(&target.gpu.device, &descriptor);
        let shared = Target { gpu: Arc::clone(&target.gpu), kernels, checks: ShaderChecks::Trusted, ..*target };
        // One descriptor, different data, and two shapes.
        let cases: Vec<_> = (0..THREADS as u64)
            .map(|seed| Case::random(if seed < 2 { &[9, 12, 5][..] } else { &[130, 12] }, ChannelsFirst, seed))
            .collect();
        let bn = BatchNorm::with_kernels(&shared.kernels, &cases[0].descriptor()).unwrap();
        let layer = |index: usize| Layer::new(&shared, &bn, &cases[index], Strategies::default());
        let (start, results) = (Barrier::new(THREADS), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for (index, case) in cases.iter().enumerate() {
                let (start, results, shared, layer) = (&start, &results, &shared, &layer);
                scope.spawn(move || {
                    let layer = layer(index);
                    start.wait();
                    for _ in 0..3 {
                        let by_one = layer.run(layer.bind());
                        let got = case.run_device(shared).unwrap();
                        results.lock().unwrap().push((index, got, by_one));
                    }
                });
            }
        });
        let results = results.into_inner().unwrap();
        assert_eq!(results.len(), 3 * THREADS);
        for (index, case) in cases.iter().enumerate() {
            let alone = case.run_device(&shared).unwrap();
            let worst = compare(case, &alone, &case.run_reference().unwrap());
            assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
            let layer = layer(index);
            let by_one = layer.run(layer.bind());
            for (_, got, got_by_one) in results.iter().filter(|(other, ..)| *other == index) {
                assert!(bits(got) == bits(&alone), "{target}: thread {index}");
                assert!(*got_by_one == by_one, "{target}: thread {index}, one batch norm");
            }
        }
    });
}
