//! One batch in several parts.

use std::sync::Arc;

use super::padding::poison;
use crate::common::case::{Case, Padding, Results, Segments};
use crate::common::parts::{run_devices_in_parts, run_reference_in_parts};
use crate::common::tolerance::{compare, of_merged_mean, of_merged_variance};
use crate::common::{Target, on_all_targets, on_every_target, on_every_target_and_in_windows, support};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNorm, BatchNormDescriptor, ChannelHealth, ChannelMoments,
    ChannelRenormalization, ChannelStatistics, ConcludeBuffers, Convention, ElementType, Error, Kernels, Momentum,
    NonFinitePolicy, OneSamplePolicy, PartBuffers, Renormalization, RunningStatistics, SegmentRunning, Shape,
    reference, wgpu,
};

/// A shape, and how its samples are cut: unequal, with parts that are empty or have one sample.
const CUTS: [(&[usize], Layout, &[usize]); 5] = [
    (&[9, 5, 7, 7], ChannelsFirst, &[4, 0, 5]),
    (&[12, 7, 16], ChannelsLast, &[12]),
    (&[40, 12], ChannelsFirst, &[1, 1, 30, 8]),
    (&[6, 3, 70], ChannelsFirst, &[0, 1, 1, 1, 1, 1, 1]),
    (&[10, 6, 5, 3], ChannelsLast, &[7, 3]),
];

fn assert_parts_meet_the_whole(case: &Case, samples: &[usize], targets: &[&Target], name: &str) {
    let truth = case.run_reference().unwrap();
    let got = run_devices_in_parts(case, samples, targets, &truth).unwrap();
    let worst = compare(case, &got, &truth);
    assert!(worst.ratio <= 1.0, "{}: {name} {:?} in {samples:?}: {worst:?}", targets[0], case.shape);
}

#[test]
fn a_batch_in_parts_is_the_whole_batch() {
    on_every_target_and_in_windows(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let case = Case::random(shape, layout, seed);
            assert_parts_meet_the_whole(&case, samples, &[target], "plain");
        }
    });
}

#[test]
fn the_reference_in_parts_is_the_reference() {
    for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
        let mut case = Case::random(shape, layout, seed).fused(Activation::Relu, true, ActivationSource::Recompute);
        case.returns_residual_gradient = true;
        case.renormalization = (seed % 2 == 0).then_some([1.5, 0.5]);
        let truth = case.run_reference().unwrap();
        let worst = compare(&case, &run_reference_in_parts(&case, samples, &truth).unwrap(), &truth);
        assert!(worst.ratio <= 1.0, "{shape:?} in {samples:?}: {worst:?}");
    }
}

#[test]
fn parts_go_with_every_element_fusion_and_mode() {
    let relu = Activation::Relu;
    let fusions = [
        (relu, true, ActivationSource::Mask, ElementType::F32),
        (Activation::LeakyRelu { slope: 0.1 }, false, ActivationSource::Output, ElementType::F16),
        (Activation::Silu, true, ActivationSource::Recompute, ElementType::Bf16),
        (Activation::Gelu, false, ActivationSource::Recompute, ElementType::F32),
    ];
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let (activation, residual, source, element) = fusions[seed as usize % fusions.len()];
            let mut case = Case::random(shape, layout, seed);
            if seed % 2 == 0 {
                let positions = case.input.len() / case.channels();
                case.padding = Some(Padding::Flags((0..positions).map(|at| at % 4 != 1).collect()));
            } else {
                case.renormalization = Some([1.5, 0.5]);
            }
            if shape.len() == 3 {
                let beside = if layout == ChannelsFirst { 2 } else { 1 };
                let running = [SegmentRunning::InTurn, SegmentRunning::Separate][seed as usize / 2 % 2];
                case = case.segmented(Segments::Along(beside), running);
            }
            if seed == 2 {
                case.convention = Convention { momentum: Momentum::CumulativeAverage, ..Convention::pytorch() };
                case.batches_tracked = Some(3);
            }
            let mut case = case.stored_as(element).fused(activation, residual, source);
            case.returns_residual_gradient = residual;
            if case.padding.is_some() {
                poison(&mut case);
            }
            assert_parts_meet_the_whole(&case, samples, &[target], "fused");
        }
    });
}

#[test]
fn every_fusion_goes_in_parts_of_any_size() {
    let slope = Activation::LeakyRelu { slope: 0.1 };
    let all = [Activation::Identity, Activation::Relu, slope, Activation::Silu, Activation::Gelu];
    let kept = [ActivationSource::Output, ActivationSource::Mask];
    let recomputed = all.map(|activation| (activation, ActivationSource::Recompute));
    let of_output = kept.map(|source| [(Activation::Relu, source), (slope, source)]);
    // All of them with all elements take a minute of a software driver; in turn, each meets one.
    let elements = [ElementType::Bf16, ElementType::F32, ElementType::F16].into_iter().cycle();
    let cases: Vec<_> = recomputed.into_iter().chain(of_output.concat()).zip(elements).collect();
    on_every_target(|target| {
        for (seed, &((activation, source), element)) in (0..).zip(&cases) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (layout, residual) = (if rng.random() { ChannelsFirst } else { ChannelsLast }, rng.random());
            let (total, mut samples) = (rng.random_range(2..=20), Vec::new());
            while samples.iter().sum::<usize>() < total {
                samples.push(rng.random_range(0..=total - samples.iter().sum::<usize>()));
            }
            let shape: &[usize] = if layout == ChannelsFirst { &[total, 6, 4, 3] } else { &[total, 4, 3, 6] };
            let case = Case::random(shape, layout, seed).stored_as(element);
            let mut case = case.fused(activation, residual, source);
            case.returns_residual_gradient = residual;
            assert_parts_meet_the_whole(&case, &samples, &[target], &format!("{activation:?} {source:?} {element:?}"));
        }
    });
}

#[test]
fn a_large_mean_costs_no_digits_over_parts() {
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let mut case = Case::random(shape, layout, seed);
            case.input.iter_mut().for_each(|value| *value = 1e6 + 0.1 * *value);
            assert_parts_meet_the_whole(&case, samples, &[target], "large mean");
        }
    });
}

#[test]
fn parts_may_lie_on_several_devices() {
    on_all_targets(|targets| {
        // Where there is one device only, it is opened again.
        let again: Vec<Target> = if targets.len() == 1 { support::open_all(None) } else { Vec::new() }
            .into_iter()
            .map(|gpu| Target { kernels: Kernels::new(&gpu.device), gpu: Arc::new(gpu), ..targets[0] })
            .collect();
        let targets: Vec<&Target> = targets.iter().chain(&again).collect();
        assert!(targets.len() > 1);
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            assert_parts_meet_the_whole(&Case::random(shape, layout, seed), samples, &targets, "several devices");
        }
    });
}

#[test]
fn moments_merge_in_any_groups() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let case = Case::random(&[20, 6, 9], ChannelsFirst, 5);
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let truth = reference::BatchNorm::new(&case.descriptor()).unwrap();
        let plan = bn.plan(&case.shape()).unwrap();
        let reference_plan = truth.plan(&case.shape()).unwrap();
        let part = |samples: usize, first: usize| {
            let mut record = vec![ChannelMoments::default(); 6];
            let plan = truth.plan(&Shape::new(&[samples, 6, 9]).unwrap()).unwrap();
            let values = &case.input[first * 54..(first + samples) * 54];
            truth.part_moments(&plan, values, None, &mut record).unwrap();
            record
        };
        let mut whole = vec![ChannelMoments::default(); 6];
        truth.part_moments(&reference_plan, &case.input, None, &mut whole).unwrap();
        // Whatever an empty part holds.
        let nothing = vec![ChannelMoments { count: 0, pivot: f32::NAN, offset: f32::INFINITY, m2: f32::NAN }; 6];
        for parts in [
            [nothing.clone(), part(3, 0), part(17, 3)].concat(),
            (0..20).map(|sample| part(1, sample)).collect::<Vec<_>>().concat(),
            part(20, 0),
        ] {
            let from = gpu.upload("parts", &parts);
            let merged = gpu.zeroed("merged", plan.part_moments_size());
            let size = size_of_val(&parts[..]) as u64;
            let step =
                bn.bind_merge_moments(&plan, from.slice(..size), merged.slice(..plan.part_moments_size())).unwrap();
            gpu.submit(|pass| step.record(pass));
            let mut expected = vec![ChannelMoments::default(); 6];
            truth.merge_moments(&reference_plan, &parts, &mut expected).unwrap();
            for ((got, expected), whole) in gpu.read::<ChannelMoments>(&merged, 6).iter().zip(&expected).zip(&whole) {
                assert_eq!(got.count, whole.count, "{target}");
                let mean_error = (got.mean() - whole.mean()).abs();
                let deviation = (whole.m2 / whole.count as f32).sqrt();
                assert!(
                    mean_error <= 4.0 * f32::EPSILON * (deviation + whole.mean().abs()),
                    "{target}: {got:?} {whole:?}"
                );
                assert!((got.m2 - whole.m2).abs() <= 16.0 * f32::EPSILON * whole.m2, "{target}: {got:?} {whole:?}");
                assert!((expected.m2 - whole.m2).abs() <= 2.0 * f32::EPSILON * whole.m2, "reference: {expected:?}");
            }
        }
        let too_many = vec![ChannelMoments::default(); 6 * 2049];
        let (from, merged) = (gpu.upload("parts", &too_many), gpu.zeroed("merged", plan.part_moments_size()));
        let size = size_of_val(&too_many[..]) as u64;
        let refused = bn.bind_merge_moments(&plan, from.slice(..size), merged.slice(..plan.part_moments_size()));
        assert!(matches!(refused, Err(Error::TooManyParts { parts: 2049, most: 2048 })));
    });
}

/// A program's own kernel that normalises, as `bind_conclude` says: five channels of 49 elements a sample.
const OWN_NORMALIZE: &str = "
    struct Statistics { pivot: f32, offset: f32, inverse_deviation: f32, variance: f32 }
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read> statistics: array<Statistics>;
    @group(0) @binding(2) var<storage, read> gamma: array<f32>;
    @group(0) @binding(3) var<storage, read> beta: array<f32>;
    @group(0) @binding(4) var<storage, read_write> y: array<f32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&x) {
            let channel = (id.x / 49u) % 5u;
            let s = statistics[channel];
            let centred = (x[id.x] - s.pivot) - s.offset;
            y[id.x] = (centred * s.inverse_deviation) * gamma[channel] + beta[channel];
        }
    }";

#[test]
fn a_programs_own_kernels_take_moments_and_normalise() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let mut case = Case::random(&[9, 5, 7, 7], ChannelsFirst, 8);
        case.batches_tracked = Some(2);
        case.reports_health = true;
        let truth = case.run_reference().unwrap();
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let (first, plan) = (bn.plan(&Shape::new(&[4, 5, 7, 7]).unwrap()).unwrap(), bn.plan(&case.shape()).unwrap());
        let input = gpu.upload("input", &case.input);
        let moments = gpu.zeroed("moments", 3 * plan.part_moments_size());
        let [saved, health, workspace] =
            [plan.saved_size(), plan.health_size(), first.workspace_size()].map(|size| gpu.zeroed("bytes", size));
        let [mean, variance] = [&case.running_mean, &case.running_variance].map(|values| gpu.upload("running", values));
        let tracked = gpu.upload("tracked", &[2_u32]);
        // Of the first four samples by the crate, of the others by the program, with means as two plain parts.
        let size = plan.part_moments_size();
        let part = PartBuffers::new(
            input.slice(..first.tensor_size()),
            moments.slice(..size),
            workspace.slice(..first.workspace_size()),
        );
        let part = bn.bind_part_moments(&first, &part).unwrap();
        let of_others = |channel: usize| {
            let values =
                || (4 * 5 * 49..case.input.len()).filter(|&i| case.channel(i) == channel).map(|i| case.input[i]);
            let count = values().count() as f64;
            let mean = values().map(f64::from).sum::<f64>() / count;
            let m2 = values().map(|value| (f64::from(value) - mean).powi(2)).sum::<f64>();
            ChannelMoments { count: count as u32, pivot: 1.0, offset: (mean - 1.0) as f32, m2: m2 as f32 }
        };
        let nothing = [ChannelMoments { count: 0, pivot: f32::NAN, offset: f32::INFINITY, m2: -1.0 }; 5];
        let others: Vec<_> = nothing.into_iter().chain((0..5).map(of_others)).collect();
        gpu.queue.write_buffer(&moments, size, bytemuck::cast_slice(&others));
        let conclude = bn
            .bind_conclude(
                &plan,
                &ConcludeBuffers {
                    running: Some(RunningStatistics {
                        mean: mean.slice(..plan.running_size()),
                        variance: variance.slice(..plan.running_size()),
                        batches_tracked: Some(tracked.slice(..4)),
                    }),
                    health: Some(health.slice(..plan.health_size())),
                    ..ConcludeBuffers::new(moments.slice(..3 * size), saved.slice(..plan.saved_size()))
                },
            )
            .unwrap();
        let [gamma, beta] = [&case.gamma, &case.beta].map(|values| gpu.upload("vector", values.as_ref().unwrap()));
        let output = gpu.zeroed("output", plan.tensor_size());
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(OWN_NORMALIZE.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip([&input, &saved, &gamma, &beta, &output])
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        gpu.submit(|pass| {
            part.record(pass);
            conclude.record_without_running_update(pass);
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(case.input.len().div_ceil(64) as u32, 1, 1);
        });
        assert_eq!(gpu.read::<f32>(&mean, 5), case.running_mean, "{target}");
        assert_eq!(gpu.read::<f32>(&variance, 5), case.running_variance, "{target}");
        assert_eq!(gpu.read::<u32>(&tracked, 1), [2], "{target}");
        gpu.submit(|pass| conclude.record(pass));
        let got = Results {
            output: gpu.read(&output, case.input.len()),
            running_mean: gpu.read(&mean, 5),
            running_variance: gpu.read(&variance, 5),
            batches_tracked: Some(gpu.read(&tracked, 1)[0]),
            saved: gpu.read(&saved, 5),
            health: gpu.read(&health, 5),
            ..truth.clone()
        };
        let worst = compare(&case, &got, &truth);
        assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
    });
}

/// Records as kernels of any kind may leave them: empty, of one element, with pivots far from the data, not finite.
fn any_moments(rng: &mut StdRng, instances: usize, parts: usize) -> Vec<ChannelMoments> {
    let largest = [0, 1, 2, 3, 1000, 3_000_000_000][rng.random_range(0..6)];
    let mut moments: Vec<_> = (0..parts * instances)
        .map(|index| {
            let count = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..=largest) };
            let mean = 3.0 * (index % instances) as f32 + rng.random_range(-1.0..1.0_f32);
            let pivot = if rng.random() { mean + rng.random_range(-0.1..0.1) } else { rng.random_range(-100.0..100.0) };
            let m2 = if count > 1 { count as f32 * rng.random_range(0.0..2.0) } else { 0.0 };
            ChannelMoments { count, pivot, offset: mean - pivot, m2 }
        })
        .collect();
    if rng.random_bool(0.2) {
        let index = rng.random_range(0..moments.len());
        moments[index].offset = [f32::NAN, f32::INFINITY][rng.random_range(0..2)];
        moments[index].count = moments[index].count.max(1);
    }
    moments
}

#[test]
fn what_follows_from_any_moments_meets_the_reference() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        for seed in 0..60 {
            let mut rng = StdRng::seed_from_u64(seed);
            let convention = Convention {
                one_sample: [OneSamplePolicy::Error, OneSamplePolicy::PopulationVariance][rng.random_range(0..2)],
                non_finite: [NonFinitePolicy::Update, NonFinitePolicy::SkipRunningUpdate][rng.random_range(0..2)],
                momentum: [Momentum::CumulativeAverage, Convention::pytorch().momentum][rng.random_range(0..2)],
                segment_running: [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate]
                    [rng.random_range(0..3)],
                ..if rng.random() { Convention::pytorch() } else { Convention::onnx() }
            };
            let descriptor = BatchNormDescriptor { channels: 6, convention, ..Default::default() };
            // Statistics do not need a plan of their elements.
            let shape = Shape::new(&[0, 6, 3]).unwrap();
            let shape = if rng.random() { shape.with_segments_along(2).unwrap() } else { shape };
            let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
            let truth = reference::BatchNorm::new(&descriptor).unwrap();
            let plan = bn.plan(&shape).unwrap();
            let instances = plan.segmentation().instances() as usize;
            let parts = [1, 2, 7, 100][rng.random_range(0..4)];
            let moments = any_moments(&mut rng, instances, parts);
            let limits = rng.random::<bool>().then_some([2.0_f32, 1.5]);
            let running = plan.running_size() as usize / 4;
            let mut expected_mean: Vec<f32> = (0..running).map(|i| i as f32).collect();
            let mut expected_variance = vec![1.5_f32; running];
            let [mean, variance] = [&expected_mean, &expected_variance].map(|values| gpu.upload("running", values));
            let (tracked, mut expected_tracked) = (gpu.upload("tracked", &[3_u32]), 3);
            let from = gpu.upload("moments", &moments);
            let sizes = [plan.saved_size(), plan.health_size(), plan.renormalization_size()];
            let [saved, health, corrections] = sizes.map(|size| gpu.zeroed("records", size));
            let bounds = gpu.upload("limits", &limits.unwrap_or_default());
            let conclude = bn
                .bind_conclude(
                    &plan,
                    &ConcludeBuffers {
                        running: Some(RunningStatistics {
                            mean: mean.slice(..plan.running_size()),
                            variance: variance.slice(..plan.running_size()),
                            batches_tracked: Some(tracked.slice(..4)),
                        }),
                        health: Some(health.slice(..plan.health_size())),
                        renormalization: limits.map(|_| Renormalization {
                            limits: bounds.slice(..8),
                            saved: corrections.slice(..plan.renormalization_size()),
                        }),
                        ..ConcludeBuffers::new(
                            from.slice(..size_of_val(&moments[..]) as u64),
                            saved.slice(..plan.saved_size()),
                        )
                    },
                )
                .unwrap();
            gpu.submit(|pass| conclude.record(pass));
            let mut expected = vec![ChannelStatistics::default(); instances];
            let mut expected_health = vec![ChannelHealth::default(); instances];
            let mut expected_corrections = vec![ChannelRenormalization::default(); instances];
            let buffers = reference::TrainingBuffers::<f32> {
                running: Some(reference::RunningStatistics {
                    mean: &mut expected_mean,
                    variance: &mut expected_variance,
                    batches_tracked: Some(&mut expected_tracked),
                }),
                saved: Some(&mut expected),
                health: Some(&mut expected_health),
                renormalization: limits
                    .map(|limits| reference::Renormalization { limits, saved: &mut expected_corrections }),
                ..Default::default()
            };
            truth.training_from_parts(&truth.plan(&shape).unwrap(), &moments, buffers).unwrap();
            let place = |what: &str, index| format!("{target}: seed {seed}, {what} {index}, {convention:?} {shape:?}");
            let given = moments.iter().filter(|part| part.count > 0 && part.offset.is_finite());
            let scale = given.map(|part| part.pivot.abs() + part.offset.abs()).fold(0.0, f32::max);
            let assert_near = |name: &str, index: usize, got: f32, expected: f32, error: f32| {
                let alike = if expected.is_finite() { (got - expected).abs() <= error } else { !got.is_finite() };
                assert!(alike, "{}: {got}, not {expected} by {error}", place(name, index));
            };
            for (index, (got, expected)) in
                gpu.read::<ChannelStatistics>(&saved, instances).iter().zip(&expected).enumerate()
            {
                assert_near(
                    "variance",
                    index,
                    got.variance,
                    expected.variance,
                    of_merged_variance(expected.variance, scale),
                );
                if expected.variance.is_finite() {
                    assert_near("mean", index, got.mean(), expected.mean(), of_merged_mean(scale));
                }
            }
            assert_eq!(gpu.read::<ChannelHealth>(&health, instances), expected_health, "{}", place("health", 0));
            assert_eq!(gpu.read::<u32>(&tracked, 1)[0], expected_tracked, "{}", place("tracked", 0));
            for (index, (got, expected)) in gpu.read::<f32>(&mean, running).into_iter().zip(&expected_mean).enumerate()
            {
                let error = of_merged_mean(scale + index as f32);
                assert_near("running mean", index, got, *expected, error);
            }
            for (index, (got, expected)) in
                gpu.read::<f32>(&variance, running).into_iter().zip(&expected_variance).enumerate()
            {
                // The unbiased variance of two elements is twice the other.
                assert_near("running variance", index, got, *expected, 2.0 * of_merged_variance(expected + 1.5, scale));
            }
            if limits.is_some() {
                let got: Vec<ChannelRenormalization> = gpu.read(&corrections, instances);
                let all = got.iter().zip(&expected_corrections).zip(&expected).enumerate();
                for (index, ((got, expected), statistics)) in all.filter(|(_, (_, s))| s.variance.is_finite()) {
                    // Over a running deviation above 1.
                    assert_near("shift", index, got.shift, expected.shift, of_merged_mean(scale + index as f32));
                    let error = of_merged_variance(statistics.variance, scale) / statistics.variance.sqrt().max(1e-3);
                    assert_near("scale", index, got.scale, expected.scale, error + 8.0 * f32::EPSILON);
                }
            }
        }
    });
}
