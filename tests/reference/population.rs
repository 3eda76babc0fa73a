//! Statistics of many batches.

use half::{bf16, f16};
use proptest::prelude::{ProptestConfig, TestCaseError, any, prop_assert, prop_assert_eq, proptest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::reference::Element;
use wgpu_batch_norm::{
    BatchNormDescriptor, ChannelMoments, Convention, Error, RunningVariance, SegmentRunning, Shape, reference,
};

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

/// Batches whose sizes differ along the first dimension.
#[derive(Clone, Copy, Debug)]
struct Structure {
    shape: [usize; 3],
    layout: Layout,
    /// Parts of the first dimension, or steps beside the channels.
    segments: Option<bool>,
    running: SegmentRunning,
    correction: RunningVariance,
    padded: bool,
}

impl Structure {
    fn batch(&self, rng: &mut StdRng) -> Shape {
        let mut dims = self.shape;
        dims[0] = rng.random_range(0..4) * if self.segments == Some(true) { 2 } else { 1 };
        let shape = Shape::new(&dims).unwrap();
        match self.segments {
            Some(true) => shape.with_sub_batches(2).unwrap(),
            Some(false) => shape.with_segments_along(if self.layout == ChannelsFirst { 2 } else { 1 }).unwrap(),
            None => shape,
        }
    }

    /// Statistics of batches of an element type against those of all their values.
    fn check<T: Element>(&self, seed: u64) -> Result<(), TestCaseError> {
        let mut rng = StdRng::seed_from_u64(seed);
        let channels = self.shape[self.layout.channel_axis(3)];
        let convention =
            Convention { segment_running: self.running, running_variance: self.correction, ..Convention::pytorch() };
        let descriptor =
            BatchNormDescriptor { channels: channels as u32, layout: self.layout, convention, ..Default::default() };
        let bn = reference::BatchNorm::new(&descriptor).unwrap();
        let steps = self.shape[if self.layout == ChannelsFirst { 2 } else { 1 }];
        let segments = self.segments.map_or(1, |parts| if parts { 2 } else { steps });
        let records = if self.running == SegmentRunning::Separate { segments * channels } else { channels };
        let mut moments = vec![ChannelMoments::default(); records];
        let mut all = vec![Vec::new(); records];
        for _ in 0..rng.random_range(1..5) {
            let shape = self.batch(&mut rng);
            let plan = bn.plan(&shape).unwrap();
            let (problem, segmentation) = (plan.problem(), shape.segmentation(self.layout).unwrap());
            let centre = rng.random_range(-3.0..3.0);
            let batch: Vec<T> =
                (0..problem.elements()).map(|_| T::from_f64(centre + rng.random_range(-1.0..1.0))).collect();
            let valid: Vec<bool> = (0..problem.count()).map(|_| !self.padded || rng.random_bool(0.4)).collect();
            for (index, x) in batch.iter().enumerate() {
                let inner = problem.inner as usize;
                if valid[index / (inner * channels) * inner + index % inner] {
                    let record = if records == channels {
                        index / inner % channels
                    } else {
                        segmentation.instance_of(index as u64) as usize
                    };
                    all[record].push(x.to_f64());
                }
            }
            let valid = Some(&valid[..]).filter(|_| self.padded);
            bn.accumulate(&plan, &batch, valid, &mut moments).unwrap();
        }
        let (mut means, mut variances) = (vec![7.0_f32; records], vec![7.0_f32; records]);
        bn.population(&moments, &mut means, &mut variances).unwrap();
        for (record, values) in all.iter().enumerate() {
            prop_assert_eq!(moments[record].count as usize, values.len());
            if values.is_empty() {
                prop_assert_eq!((means[record], variances[record]), (7.0, 7.0), "no sample, no change");
                continue;
            }
            let count = values.len() as f64;
            let truth = values.iter().sum::<f64>() / count;
            let m2: f64 = values.iter().map(|x| (x - truth).powi(2)).sum();
            let degrees = if self.correction == RunningVariance::Unbiased && count > 1.0 { count - 1.0 } else { count };
            // Records are rounded to f32 after every batch, the mean in two parts.
            prop_assert!((f64::from(means[record]) - truth).abs() <= 1e-7 * truth.abs() + 1e-9);
            prop_assert!((f64::from(variances[record]) - m2 / degrees).abs() <= 1e-6 * m2 / degrees + 1e-12);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn records_are_those_of_all_valid_values_whatever_layout_element_and_segments(
        dims in [1..5_usize, 1..5], last in any::<bool>(), segments in 0..3_usize, running in 0..3_usize,
        unbiased in any::<bool>(), padded in any::<bool>(), seed in any::<u64>(),
    ) {
        let structure = Structure {
            shape: [0, dims[0], dims[1]],
            layout: if last { ChannelsLast } else { ChannelsFirst },
            segments: [None, Some(true), Some(false)][segments],
            running: [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate][running],
            correction: if unbiased { RunningVariance::Unbiased } else { RunningVariance::Population },
            padded,
        };
        structure.check::<f32>(seed)?;
        structure.check::<f16>(seed)?;
        structure.check::<bf16>(seed)?;
    }
}
