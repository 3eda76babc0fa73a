//! Statistics of many batches.

use crate::common::case::{Case, rounded, stored};
use crate::common::targets;
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{
    AccumulateBuffers, BatchNorm, ChannelMoments, ElementType, PopulationBuffers, RunningVariance, Shape,
};

#[test]
fn batches_of_any_size_give_the_statistics_of_the_whole_data_set() {
    let (targets, _turn) = targets();
    for target in targets {
        let gpu = &target.gpu;
        for (channels, inner, batches, element, correction) in [
            (5, 1, &[7, 1, 300, 64][..], ElementType::F32, RunningVariance::Unbiased),
            (64, 49, &[3, 8, 1], ElementType::F32, RunningVariance::Population),
            (3, 400, &[1, 40, 2], ElementType::Bf16, RunningVariance::Unbiased),
        ] {
            let outer: usize = batches.iter().sum();
            let mut case = Case::random(&[outer, channels, inner], ChannelsFirst, 5);
            // A mean of a thousand deviations that drifts from batch to batch.
            for (index, value) in case.input.iter_mut().enumerate() {
                let drift = index as f32 / (outer * channels * inner) as f32;
                *value = rounded(element, *value + if element == ElementType::F32 { 1000.0 + drift } else { drift });
            }
            case.element = element;
            case.convention.running_variance = correction;
            let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
            let moments = gpu.upload("moments", &vec![ChannelMoments::default(); channels]);
            let [mean, variance] = ["mean", "variance"].map(|label| gpu.zeroed(label, 4 * channels as u64));
            let mut start = 0;
            for &batch in batches {
                let plan = bn.plan(&Shape::flat(batch, channels, inner)).unwrap();
                let values = &case.input[start..start + batch * channels * inner];
                start += values.len();
                let input = gpu.upload("input", &stored(element, values));
                let workspace = gpu.zeroed("workspace", plan.workspace_size());
                let accumulate = bn
                    .bind_accumulate(
                        &plan,
                        &AccumulateBuffers {
                            input: input.slice(..plan.tensor_size()),
                            moments: moments.slice(..plan.moments_size()),
                            workspace: workspace.slice(..plan.workspace_size()),
                        },
                    )
                    .unwrap();
                let population = bn
                    .bind_population(
                        &plan,
                        &PopulationBuffers {
                            moments: moments.slice(..plan.moments_size()),
                            running_mean: mean.slice(..plan.vector_size()),
                            running_variance: variance.slice(..plan.vector_size()),
                        },
                    )
                    .unwrap();
                gpu.submit(|pass| {
                    accumulate.record(pass);
                    population.record(pass);
                });
            }
            let records: Vec<ChannelMoments> = gpu.read(&moments, channels);
            let (means, variances) = (gpu.read::<f32>(&mean, channels), gpu.read::<f32>(&variance, channels));
            for channel in 0..channels {
                let values: Vec<f64> = (0..case.input.len())
                    .filter(|&index| case.channel(index) == channel)
                    .map(|index| f64::from(case.input[index]))
                    .collect();
                let count = values.len() as f64;
                let truth = values.iter().sum::<f64>() / count;
                let m2: f64 = values.iter().map(|x| (x - truth).powi(2)).sum();
                let divisor = if correction == RunningVariance::Unbiased { count - 1.0 } else { count };
                let place = format!("{target}: {channels} × {inner}, channel {channel}");
                assert_eq!(records[channel].count as usize, values.len(), "{place}");
                // The mean leaves as one f32; the variance has a path of log2 of the count and a merge a batch.
                let deviation = (m2 / count).sqrt();
                let mean_error = f64::from(f32::EPSILON) * (truth.abs() + 4.0 * deviation);
                assert!((f64::from(means[channel]) - truth).abs() <= mean_error, "{place}: {} {truth}", means[channel]);
                let error = (f64::from(variances[channel]) - m2 / divisor).abs() / (m2 / divisor);
                assert!(error <= 24.0 * f64::from(f32::EPSILON), "{place}: {error:e}");
            }
        }
    }
}
