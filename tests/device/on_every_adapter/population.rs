//! Statistics of many batches.

use crate::common::case::{Case, Segments, rounded, stored};
use crate::common::{on_every_target, on_every_target_and_in_windows};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::SegmentRunning::{InTurn, Separate};
use wgpu_batch_norm::{
    AccumulateBuffers, BatchNorm, ChannelMoments, ElementType, PopulationBuffers, RunningVariance, Shape, ValidBuffers,
    ValidSource, reference,
};

#[test]
fn batches_of_any_size_give_the_statistics_of_the_whole_data_set() {
    on_every_target_and_in_windows(|target| {
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
                            valid: None,
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
    });
}

/// Segments that share running statistics are one population a channel; segments with their own are one each.
#[test]
fn populations_of_segments_leave_padding_out() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        for running in [InTurn, Separate] {
            let case = Case::random(&[12, 5, 7], ChannelsFirst, 6).segmented(Segments::SubBatches(3), running);
            let flags: Vec<bool> = (0..84).map(|position| position * 7 % 10 < 6 && position > 30).collect();
            let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
            let plan = bn.plan(&case.shape()).unwrap();
            let count = plan.moments_size() as usize / size_of::<ChannelMoments>();
            let input = gpu.upload("input", &case.input);
            let source = gpu.upload("flags", &flags.iter().map(|&flag| u32::from(flag)).collect::<Vec<_>>());
            let valid = gpu.zeroed("valid", plan.valid_size());
            let moments = gpu.zeroed("moments", plan.moments_size());
            let workspace = gpu.zeroed("workspace", plan.workspace_size());
            let [mean, variance] = ["mean", "variance"].map(|label| gpu.zeroed(label, plan.running_size()));
            let marking = bn
                .bind_valid(
                    &plan,
                    &ValidBuffers {
                        source: ValidSource::Flags(source.slice(..plan.positions_size())),
                        valid: valid.slice(..plan.valid_size()),
                    },
                )
                .unwrap();
            let accumulate = bn
                .bind_accumulate(
                    &plan,
                    &AccumulateBuffers {
                        input: input.slice(..plan.tensor_size()),
                        moments: moments.slice(..plan.moments_size()),
                        valid: Some(valid.slice(..plan.valid_size())),
                        workspace: workspace.slice(..),
                    },
                )
                .unwrap();
            let population = bn
                .bind_population(
                    &plan,
                    &PopulationBuffers {
                        moments: moments.slice(..plan.moments_size()),
                        running_mean: mean.slice(..plan.running_size()),
                        running_variance: variance.slice(..plan.running_size()),
                    },
                )
                .unwrap();
            gpu.submit(|pass| {
                marking.record(pass);
                accumulate.record(pass);
                accumulate.record(pass);
                population.record(pass);
            });
            let host = reference::BatchNorm::new(&case.descriptor()).unwrap();
            let host_plan = host.plan(&case.shape()).unwrap();
            let mut truth = vec![ChannelMoments::default(); count];
            for _ in 0..2 {
                host.accumulate(&host_plan, &case.input, Some(&flags), &mut truth).unwrap();
            }
            let (mut means, mut variances) = (vec![0.0; count], vec![0.0; count]);
            host.population(&truth, &mut means, &mut variances).unwrap();
            let records: Vec<ChannelMoments> = gpu.read(&moments, count);
            let counts = |records: &[ChannelMoments]| records.iter().map(|record| record.count).collect::<Vec<_>>();
            assert_eq!(counts(&records), counts(&truth), "{target}: {running:?}");
            assert!(running == InTurn || truth.iter().any(|record| record.count == 0), "a segment of padding");
            let (got_means, got_variances) = (gpu.read::<f32>(&mean, count), gpu.read::<f32>(&variance, count));
            for (got, truth) in got_means.iter().zip(&means).chain(got_variances.iter().zip(&variances)) {
                assert!((got - truth).abs() <= 8.0 * f32::EPSILON * truth.abs().max(1.0), "{target}: {got} {truth}");
            }
        }
    });
}
