//! Statistics of many batches.

use crate::common::case::{Case, POISON, Padding, Segments, rounded, stored};
use crate::common::memory::Memory;
use crate::common::tolerance::compare_population;
use crate::common::{Target, on_every_target, on_every_target_and_in_windows};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::{Averaged, InTurn, Separate};
use wgpu_batch_norm::{
    AccumulateBuffers, AdapterClass, BatchNorm, ChannelMoments, ElementType, Error, PopulationBuffers, RunningVariance,
    SequenceAxes, Shape, ValidBuffers, ValidSource,
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

/// Batches of one data set, of unequal sizes, with anything else from the seed: layout, element type, segments that share
/// records or have their own, padding, and how far the mean is from 0.
fn arbitrary(seed: u64) -> Vec<Case> {
    let mut rng = StdRng::seed_from_u64(seed);
    let layout = if rng.random() { ChannelsFirst } else { ChannelsLast };
    let channels = rng.random_range(1..16);
    let mut shape: Vec<usize> = (0..rng.random_range(0..3)).map(|_| rng.random_range(1..12)).collect();
    shape.insert(if layout == ChannelsFirst { 0 } else { shape.len() }, channels);
    shape.insert(0, 0);
    let channel_axis = layout.channel_axis(shape.len());
    let beside = if layout == ChannelsFirst { channel_axis + 1 } else { channel_axis - 1 };
    let parts = rng.random_range(2..4);
    let segments = match rng.random_range(0..4) {
        0 => Segments::SubBatches(parts),
        1 if (1..shape.len()).contains(&beside) => Segments::Along(beside),
        _ => Segments::Batch,
    };
    let running = [InTurn, Averaged, Separate][rng.random_range(0..3)];
    let element = ElementType::ALL[rng.random_range(0..3)];
    let correction = [RunningVariance::Unbiased, RunningVariance::Population][rng.random_range(0..2)];
    let offset = if element == ElementType::F32 && rng.random_bool(0.3) { 1000.0 } else { 0.0 };
    let padding = rng.random_range(0..4);
    let count = rng.random_range(1..6);
    let batch = |index: u64| {
        shape[0] = match segments {
            Segments::SubBatches(parts) => parts * rng.random_range(1..4),
            _ => rng.random_range(0..20),
        };
        let mut case = Case::random(&shape, layout, seed ^ index << 32);
        case.input.iter_mut().for_each(|x| *x += offset);
        case = case.stored_as(element).segmented(segments, running);
        case.convention.running_variance = correction;
        let others: Vec<usize> = (0..shape.len()).filter(|&axis| axis != channel_axis).collect();
        case.padding = match padding {
            0 if others.len() > 1 => {
                let axes = SequenceAxes { sequence: others[0], step: others[1] };
                let lengths = (0..shape[others[0]]).map(|_| rng.random_range(0..=shape[others[1]] as u32));
                Some(Padding::Lengths(lengths.collect(), axes))
            }
            0 | 1 => Some(Padding::Flags((0..case.input.len() / channels).map(|_| rng.random_bool(0.3)).collect())),
            _ => None,
        };
        case
    };
    (0..count).map(batch).collect()
}

pub(super) struct Population {
    pub moments: Vec<ChannelMoments>,
    pub running: [Vec<f32>; 2],
}

/// Every batch in one submission, then the statistics of all.
pub(super) fn accumulate(target: &Target, batches: &[Case]) -> Result<Population, Error> {
    let (memory, first) = (Memory::new(target), &batches[0]);
    let bn = BatchNorm::with_kernels(&target.kernels, &first.descriptor())?;
    let records = first.running_mean.len();
    let moments = memory.upload("moments", &vec![ChannelMoments::default(); records]);
    let running = [&first.running_mean, &first.running_variance].map(|values| memory.upload("running", values));
    let mut steps = Vec::new();
    for case in batches {
        let plan = bn.plan(&case.shape())?;
        let input = memory.upload("input", &stored(case.element, &case.input));
        let source = memory.upload("source", &case.valid_source());
        let valid = memory.upload("valid", &vec![POISON; plan.valid_size() as usize / 4]);
        let workspace = memory.upload("workspace", &vec![POISON; plan.workspace_size() as usize / 4]);
        let valid = case.padding.as_ref().map(|padding| (padding, valid.slice(..plan.valid_size())));
        if let Some((padding, valid)) = valid {
            let source = match padding {
                Padding::Lengths(lengths, axes) => {
                    ValidSource::Lengths { lengths: source.slice(..4 * lengths.len() as u64), axes: *axes }
                }
                Padding::Flags(_) => ValidSource::Flags(source.slice(..plan.positions_size())),
            };
            steps.push(bn.bind_valid(&plan, &ValidBuffers { source, valid })?);
        }
        let buffers = AccumulateBuffers {
            input: input.slice(..plan.tensor_size()),
            moments: moments.slice(..plan.moments_size()),
            valid: valid.map(|(_, valid)| valid),
            workspace: workspace.slice(..),
        };
        steps.push(bn.bind_accumulate(&plan, &buffers)?);
    }
    let plan = bn.plan(&first.shape())?;
    let [running_mean, running_variance] = [0, 1].map(|which| running[which].slice(..plan.running_size()));
    let moments_slice = moments.slice(..plan.moments_size());
    let buffers = PopulationBuffers { moments: moments_slice, running_mean, running_variance };
    steps.push(bn.bind_population(&plan, &buffers)?);
    target.gpu.submit(|pass| steps.iter().for_each(|step| step.record(pass)));
    memory.assert_gaps_are_untouched();
    Ok(Population {
        moments: memory.read(&moments, records),
        running: running.map(|buffer| memory.read(&buffer, records)),
    })
}

#[test]
fn populations_are_those_of_all_values_whatever_batches_segments_and_padding() {
    on_every_target(|target| {
        // Few for other classes of machine: every one compiles kernels of its own.
        let seeds = if target.kernels.profile().class == AdapterClass::Cpu { 0..60 } else { 80..92 };
        let (mut compared, mut untouched, mut windowed) = (0, 0, 0);
        for seed in seeds {
            let batches = arbitrary(seed);
            let first = &batches[0];
            let mut values = vec![Vec::new(); first.running_mean.len()];
            for case in &batches {
                let (recorded, valid) = (case.recorded(), case.valid_elements());
                for index in (0..valid.len()).filter(|&index| valid[index]) {
                    values[recorded.instance_of(index as u64) as usize].push(f64::from(case.input[index]));
                }
            }
            let cut = (seed % 3 == 0).then(|| accumulate(&target.in_windows(1 << 10), &batches));
            let windows = cut.is_some();
            let got = match cut.unwrap_or_else(|| accumulate(target, &batches)) {
                Err(Error::SharedWords { .. }) => continue,
                got => got.unwrap(),
            };
            let place = format!("{target}: seed {seed}");
            let [means, variances] = &got.running;
            let worst = compare_population(&first.convention, batches.len(), &values, &got.moments, [means, variances]);
            assert!(worst.ratio <= 1.0, "{place}: {worst:?} in {batches:?}");
            for (record, values) in values.iter().enumerate() {
                assert_eq!(got.moments[record].count as usize, values.len(), "{place}: record {record}");
                if values.is_empty() {
                    let before = [first.running_mean[record], first.running_variance[record]].map(f32::to_bits);
                    let after = [means[record], variances[record]].map(f32::to_bits);
                    assert_eq!(after, before, "{place}: record {record} has no sample");
                    untouched += 1;
                }
            }
            compared += 1;
            windowed += usize::from(windows && batches.iter().any(|case| case.input.len() > 512));
        }
        assert!(compared > 6 && untouched > 0 && windowed > 0, "{compared} {untouched} {windowed}");
    });
}
