//! One batch in several parts.

use std::sync::Arc;

use super::in_place::bits;
use super::padding::poison;
use crate::common::case::{Case, Padding, Results, Segments};
use crate::common::parts::{run_devices_in_parts, run_reference_in_parts};
use crate::common::tolerance::{compare, of_merged_mean, of_merged_variance};
use crate::common::{Target, on_all_targets, on_every_target, on_every_target_and_in_windows, support};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    Activation, ActivationSource, BackwardBuffers, BatchNorm, BatchNormDescriptor, ChannelGradientSums, ChannelHealth,
    ChannelMoments, ChannelRenormalization, ChannelStatistics, ConcludeBuffers, Convention, ElementType, Error,
    Gradient, Kernels, Momentum, NonFinitePolicy, OneSamplePolicy, PartBuffers, Plan, Renormalization,
    RunningStatistics, SegmentRunning, ShaderChecks, Shape, TrainingBuffers, reference, wgpu,
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
fn parts_go_in_place() {
    on_every_target(|target| {
        for (seed, (shape, layout, samples)) in (0..).zip(CUTS) {
            let mut case = Case::random(shape, layout, seed);
            if seed % 2 == 1 {
                case = case.fused(Activation::Relu, true, ActivationSource::Mask);
                case.returns_residual_gradient = true;
            }
            let run = |case: &Case| {
                let truth = case.run_reference().unwrap();
                bits(&run_devices_in_parts(case, samples, &[target], &truth).unwrap())
            };
            let (apart, in_place) = (run(&case), run(&Case { in_place: true, ..case }));
            for ((name, expected), (_, got)) in apart.iter().zip(&in_place) {
                assert_eq!(got, expected, "{target}: {shape:?} in {samples:?}: {name}");
            }
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
            .map(|gpu| Target {
                kernels: Kernels::new(&gpu.device),
                checks: ShaderChecks::Trusted,
                gpu: Arc::new(gpu),
                ..targets[0]
            })
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

#[test]
fn more_parts_than_are_merged_at_once_merge_in_a_tree() {
    const PARTS: usize = 5000;
    const MOST: usize = 2048;
    on_every_target(|target| {
        let gpu = &target.gpu;
        // So many channels that a part's records, and those of a group, begin where bindings may.
        let descriptor = BatchNormDescriptor { channels: 32, ..Default::default() };
        let (bn, truth) = (
            BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap(),
            reference::BatchNorm::new(&descriptor).unwrap(),
        );
        let shape = Shape::new(&[0, 32]).unwrap();
        let (plan, reference_plan) = (bn.plan(&shape).unwrap(), truth.plan(&shape).unwrap());
        let mut rng = StdRng::seed_from_u64(1);
        let moments: Vec<_> = (0..PARTS * 32)
            .map(|index| ChannelMoments {
                count: (index as u32 / 32) % 4,
                pivot: 5.0 + rng.random_range(-1.0..1.0_f32),
                offset: rng.random_range(-0.1..0.1),
                m2: rng.random_range(0.0..2.0),
            })
            .collect();
        let value = |rng: &mut StdRng| rng.random_range(-1.0..1.0_f32);
        let sums: Vec<_> =
            (0..PARTS * 32).map(|_| ChannelGradientSums { sum: value(&mut rng), product: value(&mut rng) }).collect();
        let (all_moments, all_sums) = (gpu.upload("moments", &moments), gpu.upload("sums", &sums));
        let groups = PARTS.div_ceil(MOST) as u64;
        let (size, sums_size) = (plan.part_moments_size(), plan.gradient_sums_size());
        let [of_groups, whole] = [groups, 1].map(|count| gpu.zeroed("moments", count * size));
        let [sums_of_groups, whole_sums] = [groups, 1].map(|count| gpu.zeroed("sums", count * sums_size));
        let all = ..PARTS as u64 * size;
        let refused = bn.bind_merge_moments(&plan, all_moments.slice(all), whole.slice(..size)).map(drop);
        assert_eq!(refused, Err(Error::TooManyParts { parts: PARTS as u64, most: MOST as u64 }));
        let all = ..PARTS as u64 * sums_size;
        let refused = bn.bind_merge_gradient_sums(&plan, all_sums.slice(all), whole_sums.slice(..sums_size)).map(drop);
        assert_eq!(refused, Err(Error::TooManyParts { parts: PARTS as u64, most: MOST as u64 }));
        let mut steps = Vec::new();
        for group in 0..groups {
            let (first, end) = (group * MOST as u64, (group + 1) * MOST as u64);
            let parts = |size: u64| first * size..end.min(PARTS as u64) * size;
            let own = |size: u64| group * size..(group + 1) * size;
            let (from, into) = (all_moments.slice(parts(size)), of_groups.slice(own(size)));
            steps.push(bn.bind_merge_moments(&plan, from, into).unwrap());
            let (from, into) = (all_sums.slice(parts(sums_size)), sums_of_groups.slice(own(sums_size)));
            steps.push(bn.bind_merge_gradient_sums(&plan, from, into).unwrap());
        }
        steps.push(bn.bind_merge_moments(&plan, of_groups.slice(..groups * size), whole.slice(..size)).unwrap());
        let (from, into) = (sums_of_groups.slice(..groups * sums_size), whole_sums.slice(..sums_size));
        steps.push(bn.bind_merge_gradient_sums(&plan, from, into).unwrap());
        gpu.submit(|pass| steps.iter().for_each(|step| step.record(pass)));

        let mut expected = vec![ChannelMoments::default(); 32];
        truth.merge_moments(&reference_plan, &moments, &mut expected).unwrap();
        for (got, expected) in gpu.read::<ChannelMoments>(&whole, 32).iter().zip(&expected) {
            assert_eq!(got.count, expected.count, "{target}");
            let variance = [got, expected].map(|record| record.m2 / record.count as f32);
            assert!((got.mean() - expected.mean()).abs() <= of_merged_mean(6.2), "{target}: {got:?} {expected:?}");
            let allowed = of_merged_variance(variance[1], 6.2);
            assert!((variance[0] - variance[1]).abs() <= allowed, "{target}: {got:?} {expected:?}");
        }
        let mut expected = vec![ChannelGradientSums::default(); 32];
        truth.merge_gradient_sums(&reference_plan, &sums, &mut expected).unwrap();
        // 5000 values up to 1, by trees of some 13 additions, and a merge of groups.
        let allowed = 5000.0 * 16.0 * 0.5 * f32::EPSILON;
        for (got, expected) in gpu.read::<ChannelGradientSums>(&whole_sums, 32).iter().zip(&expected) {
            let near = |a: f32, b: f32| (a - b).abs() <= allowed;
            let alike = near(got.sum, expected.sum) && near(got.product, expected.product);
            assert!(alike, "{target}: {got:?} {expected:?}");
        }
    });
}

#[test]
fn a_step_over_all_parts_is_one_submission_without_the_host() {
    on_every_target(|target| {
        let gpu = &target.gpu;
        let case =
            Case::random(&[10, 32, 5], ChannelsFirst, 3).fused(Activation::Relu, false, ActivationSource::Recompute);
        let truth = case.run_reference().unwrap();
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let samples = [3, 0, 6, 1];
        let plans = samples.map(|count| bn.plan(&Shape::new(&[count, 32, 5]).unwrap()).unwrap());
        let (size, sums_size) = (plans[0].part_moments_size(), plans[0].gradient_sums_size());
        let zeroed = |size| gpu.zeroed("bytes", size);
        let [all, merged, all_sums, merged_sums, saved] =
            [4 * size, size, 4 * sums_size, sums_size, plans[0].saved_size()].map(zeroed);
        let [gamma, beta, mean, variance] =
            [case.gamma.as_ref().unwrap(), case.beta.as_ref().unwrap(), &case.running_mean, &case.running_variance]
                .map(|values| gpu.upload("vector", values));
        let [dgamma, dbeta] = [(); 2].map(|()| gpu.zeroed("gradient", plans[0].vector_size()));
        let vector = ..plans[0].vector_size();
        let workspace = zeroed(plans.iter().map(Plan::workspace_size).max().unwrap());
        let mut first = 0;
        let parts: Vec<_> = plans
            .iter()
            .map(|plan| {
                let range = first..first + plan.tensor_size() as usize / 4;
                first = range.end;
                let [x, g] = [&case.input, &case.output_gradient].map(|all| gpu.upload("part", &all[range.clone()]));
                let [y, dx] = [(); 2].map(|()| zeroed(plan.tensor_size()));
                (x, g, y, dx, range.len())
            })
            .collect();
        let scratch = |plan: &Plan| workspace.slice(..plan.workspace_size());
        let mut steps = Vec::new();
        for (at, (plan, (x, ..))) in (0..).zip(plans.iter().zip(&parts)) {
            let own = all.slice(at * size..(at + 1) * size);
            let buffers = PartBuffers::new(x.slice(..plan.tensor_size()), own, scratch(plan));
            steps.push(bn.bind_part_moments(plan, &buffers).unwrap());
        }
        steps.push(bn.bind_merge_moments(&plans[0], all.slice(..), merged.slice(..size)).unwrap());
        let mut trainings = Vec::new();
        for (plan, (x, _, y, ..)) in plans.iter().zip(&parts) {
            let [x, y] = [x, y].map(|tensor| tensor.slice(..plan.tensor_size()));
            let running =
                RunningStatistics { mean: mean.slice(vector), variance: variance.slice(vector), batches_tracked: None };
            let buffers = TrainingBuffers {
                gamma: Some(gamma.slice(vector)),
                beta: Some(beta.slice(vector)),
                running: Some(running),
                saved: Some(saved.slice(..plan.saved_size())),
                ..TrainingBuffers::new(x, y, scratch(plan))
            };
            trainings.push(bn.bind_training_from_parts(plan, merged.slice(..size), &buffers).unwrap());
        }
        let backward = |plan: &Plan, at: usize| {
            let (x, g, _, dx, _) = &parts[at];
            let [x, g, dx] = [x, g, dx].map(|tensor| tensor.slice(..plan.tensor_size()));
            BackwardBuffers {
                gamma: Some(gamma.slice(vector)),
                beta: Some(beta.slice(vector)),
                saved: Some(saved.slice(..plan.saved_size())),
                input_gradient: Some(Gradient::Overwrite(dx)),
                gamma_gradient: Some(Gradient::Accumulate(dgamma.slice(vector))),
                beta_gradient: Some(Gradient::Accumulate(dbeta.slice(vector))),
                ..BackwardBuffers::new(x, g, scratch(plan))
            }
        };
        let mut backwards = Vec::new();
        for (at, plan) in plans.iter().enumerate() {
            let own = all_sums.slice(at as u64 * sums_size..(at as u64 + 1) * sums_size);
            backwards.push(bn.bind_part_gradients(plan, own, &backward(plan, at)).unwrap());
        }
        backwards
            .push(bn.bind_merge_gradient_sums(&plans[0], all_sums.slice(..), merged_sums.slice(..sums_size)).unwrap());
        for (at, plan) in plans.iter().enumerate() {
            let (sums, moments) = (merged_sums.slice(..sums_size), merged.slice(..size));
            backwards.push(bn.bind_backward_from_parts(plan, sums, moments, &backward(plan, at)).unwrap());
        }
        gpu.submit(|pass| {
            steps.iter().for_each(|step| step.record(pass));
            // One of the parts that share running statistics updates them.
            trainings[0].record(pass);
            trainings[1..].iter().for_each(|step| step.record_without_running_update(pass));
            backwards.iter().for_each(|step| step.record(pass));
        });
        let joined = |of: fn(&(wgpu::Buffer, wgpu::Buffer, wgpu::Buffer, wgpu::Buffer, usize)) -> &wgpu::Buffer| {
            parts.iter().flat_map(|part| gpu.read::<f32>(of(part), part.4)).collect::<Vec<_>>()
        };
        let got = Results {
            output: joined(|part| &part.2),
            input_gradient: joined(|part| &part.3),
            gamma_gradient: gpu.read(&dgamma, 32),
            beta_gradient: gpu.read(&dbeta, 32),
            running_mean: gpu.read(&mean, 32),
            running_variance: gpu.read(&variance, 32),
            saved: gpu.read(&saved, 32),
            ..truth.clone()
        };
        let worst = compare(&case, &got, &truth);
        assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
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
