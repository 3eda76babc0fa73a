//! Statistics of many batches.

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use wgpu_batch_norm::{BatchNormDescriptor, ChannelMoments, Convention, Error, Shape, reference};

fn batch_norm(convention: Convention) -> reference::BatchNorm {
    reference::BatchNorm::new(&BatchNormDescriptor { channels: 2, convention, ..Default::default() }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn batches_merge_to_the_statistics_of_the_whole(
        sizes in proptest::collection::vec(0..9_usize, 1..6), offset in -1e3..1e3_f64, scale in 0.1..10.0_f64,
    ) {
        let bn = batch_norm(Convention::onnx());
        let mut moments = [ChannelMoments::default(); 2];
        let mut all = [Vec::new(), Vec::new()];
        for (seed, &size) in (1_u64..).zip(&sizes) {
            let value = |i: usize| offset + scale * ((i as u64 * 7919 + seed * 104_729) % 1009) as f64 / 1009.0;
            let batch: Vec<f64> = (0..2 * size).map(value).collect();
            for (index, &x) in batch.iter().enumerate() {
                all[index % 2].push(x);
            }
            bn.accumulate(&bn.plan(&Shape::flat(size, 2, 1)).unwrap(), &batch, None, &mut moments).unwrap();
        }
        let (mut mean, mut variance) = ([7.0_f32; 2], [7.0_f32; 2]);
        bn.population(&moments, &mut mean, &mut variance).unwrap();
        for channel in 0..2 {
            let count = all[channel].len() as f64;
            prop_assert_eq!(moments[channel].count as usize, all[channel].len());
            if all[channel].is_empty() {
                prop_assert_eq!((mean[channel], variance[channel]), (7.0, 7.0), "no sample, no change");
                continue;
            }
            let truth = all[channel].iter().sum::<f64>() / count;
            let spread = all[channel].iter().map(|x| (x - truth).powi(2)).sum::<f64>() / count;
            // Records are rounded to f32 after every batch: M2 to its own size, the mean twice over.
            prop_assert!((f64::from(mean[channel]) - truth).abs() <= 1e-7 * truth.abs() + 1e-6 * scale);
            prop_assert!((f64::from(variance[channel]) - spread).abs() <= 1e-6 * spread + 1e-6 * scale * scale);
        }
    }
}

#[test]
fn the_running_variance_takes_the_correction_of_the_convention() {
    let record = ChannelMoments { count: 5, pivot: 1.0, offset: 0.5, m2: 20.0 };
    let one = ChannelMoments { count: 1, pivot: 3.0, offset: 0.0, m2: 0.0 };
    for (convention, expected) in [(Convention::pytorch(), 5.0), (Convention::onnx(), 4.0)] {
        let (mut mean, mut variance) = ([0.0; 2], [9.0; 2]);
        batch_norm(convention).population(&[record, one], &mut mean, &mut variance).unwrap();
        assert_eq!(mean, [1.5, 3.0]);
        assert_eq!(variance, [expected, 0.0], "one sample has no variance to correct");
    }
}

#[test]
fn slices_of_another_length_are_refused_before_anything_is_written() {
    let bn = batch_norm(Convention::pytorch());
    let plan = bn.plan(&Shape::flat(2, 2, 1)).unwrap();
    let mut moments = [ChannelMoments::default(); 2];
    let refused = |result, binding| {
        assert!(matches!(result, Err(Error::WrongLength { binding: name, .. }) if name == binding), "{result:?}");
    };
    refused(bn.accumulate(&plan, &[1.0_f32; 3], None, &mut moments), "input");
    refused(bn.accumulate(&plan, &[1.0_f32; 4], None, &mut moments[..1]), "moments");
    refused(bn.population(&moments, &mut [0.0; 1], &mut [0.0; 2]), "running_mean");
    refused(bn.population(&moments, &mut [0.0; 2], &mut [0.0; 3]), "running_variance");
    assert_eq!(moments, [ChannelMoments::default(); 2]);
}
