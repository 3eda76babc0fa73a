//! Tensors larger than a storage binding of the device, and with `WGPU_BATCH_NORM_LARGE=1` larger than one of its buffers:
//! 3.2 GiB in two, with as much again for dy and to keep x, which took 10 GiB on lavapipe; and more elements than 32 bits count, in
//! five. Adapters, which run side by side, take as much each.

use crate::common::tolerance::{bf16_inference_tolerance, uniform_tolerances};
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, ChannelGradientSums, ChannelMoments, ChannelStatistics,
    Convention, ElementType, Gradient, InferenceBuffers, PartBuffers, Plan, Problem, RunningStatistics, Shape,
    TrainingBuffers, wgpu,
};

/// Values that are uploaded, read back and compared at once.
const CHUNK: u64 = 1 << 24;

const EPSILON: f64 = 1e-5;

/// A batch whose values are a function of their place, so that it need not be held on the host.
struct Batch {
    problem: Problem,
    /// Outer steps of each part.
    parts: Vec<u64>,
}

impl Batch {
    fn channel(&self, index: u64) -> usize {
        (index / self.problem.inner % u64::from(self.problem.channels)) as usize
    }

    /// Uniform in [−1, 1).
    fn noise(index: u64, seed: u64) -> f32 {
        let mixed = (index + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Around the channel's offset.
    fn input(&self, index: u64) -> f32 {
        4.0 * (self.channel(index) as f32 + 1.0) + Self::noise(index, 0)
    }

    fn gradient(index: u64) -> f32 {
        0.25 + Self::noise(index, 1 << 50)
    }

    fn gamma(channel: usize) -> f32 {
        1.0 + 0.5 * channel as f32
    }

    fn beta(channel: usize) -> f32 {
        0.25 - channel as f32
    }
}

/// Of a channel, in f64.
#[derive(Clone, Copy, Default)]
struct Truth {
    mean: f64,
    inverse: f64,
    gradient_mean: f64,
    product_mean: f64,
}

fn truths(batch: &Batch) -> Vec<Truth> {
    let channels = batch.problem.channels as usize;
    let (elements, count) = (batch.problem.elements(), batch.problem.count() as f64);
    let mut sums = vec![[0.0_f64; 4]; channels];
    for index in 0..elements {
        let channel = batch.channel(index);
        // Relative to the offset, so that no digits are lost.
        let x = f64::from(batch.input(index)) - 4.0 * (channel as f64 + 1.0);
        let g = f64::from(Batch::gradient(index));
        for (sum, value) in sums[channel].iter_mut().zip([x, x * x, g, g * x]) {
            *sum += value;
        }
    }
    let truth = |(channel, sums): (usize, &[f64; 4])| {
        let [x, square, g, product] = sums.map(|sum| sum / count);
        let inverse = 1.0 / (square - x * x + EPSILON).sqrt();
        Truth {
            mean: x + 4.0 * (channel as f64 + 1.0),
            inverse,
            gradient_mean: g,
            product_mean: (product - x * g) * inverse,
        }
    };
    sums.iter().enumerate().map(truth).collect()
}

/// A part on the device: x, which y takes the place of, and g, which dx does.
struct Part {
    plan: Plan,
    first: u64,
    x: wgpu::Buffer,
    kept: wgpu::Buffer,
    g: wgpu::Buffer,
    workspace: wgpu::Buffer,
}

fn upload(target: &Target, label: &str, count: u64, value: impl Fn(u64) -> f32) -> wgpu::Buffer {
    let gpu = &target.gpu;
    let buffer = gpu.zeroed(label, 4 * count);
    for start in (0..count).step_by(CHUNK as usize) {
        let values: Vec<f32> = (start..(start + CHUNK).min(count)).map(&value).collect();
        gpu.queue.write_buffer(&buffer, 4 * start, bytemuck::cast_slice(&values));
        // Staged values do not pile up.
        gpu.queue.submit([]);
        gpu.wait();
    }
    buffer
}

fn compare(target: &Target, name: &str, buffer: &wgpu::Buffer, count: u64, expected: impl Fn(u64) -> (f64, f64)) {
    for start in (0..count).step_by(CHUNK as usize) {
        let length = CHUNK.min(count - start);
        let chunk = target.gpu.zeroed("chunk", 4 * length);
        let mut encoder = target.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 4 * start, &chunk, 0, 4 * length);
        target.gpu.queue.submit([encoder.finish()]);
        for (index, got) in (start..).zip(target.gpu.read::<f32>(&chunk, length as usize)) {
            let (truth, allowed) = expected(index);
            let error = (f64::from(got) - truth).abs();
            assert!(error <= allowed, "{target}: {name}[{index}] = {got}, truth {truth}, allowed {allowed:e}");
        }
    }
}

fn check(target: &Target, layout: Layout, batch: &Batch) {
    let gpu = &target.gpu;
    let channels = batch.problem.channels;
    let (outer, width, inner) = (batch.problem.outer, channels as usize, batch.problem.inner as usize);
    let convention = Convention { epsilon: EPSILON, ..Convention::pytorch() };
    let descriptor = BatchNormDescriptor { channels, layout, convention, ..Default::default() };
    let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
    let step = u64::from(channels) * batch.problem.inner;
    let vector = |label: &str, value: fn(usize) -> f32| gpu.upload(label, &(0..width).map(value).collect::<Vec<_>>());
    let (gamma, beta) = (vector("gamma", Batch::gamma), vector("beta", Batch::beta));
    let mut first = 0;
    let parts: Vec<Part> = (batch.parts.iter())
        .map(|&steps| {
            let plan = bn.plan(&Shape::flat(steps as usize, width, inner)).unwrap();
            assert!(plan.window_count() > 1, "{target}: larger than a binding");
            let (start, count) = (first, steps * step);
            first += count;
            let x = upload(target, "x", count, |index| batch.input(start + index));
            // Backward needs x, and y takes its place.
            let kept = upload(target, "kept", count, |index| batch.input(start + index));
            let g = upload(target, "g", count, |index| Batch::gradient(start + index));
            let workspace = gpu.zeroed("workspace", plan.workspace_size());
            Part { plan, first: start, x, kept, g, workspace }
        })
        .collect();
    assert_eq!(first, outer * step);
    let plan = &parts[0].plan;
    let vectors = [0.0_f32, 1.0, 0.0, 0.0].map(|value| gpu.upload("vector", &vec![value; width]));
    let [mean, variance, gamma_gradient, beta_gradient] = &vectors;
    let saved = gpu.zeroed("saved", plan.saved_size());
    let whole = |part: &Part| ..part.plan.tensor_size();
    let moments: Vec<ChannelMoments> = (parts.iter())
        .flat_map(|part| {
            let moments = gpu.zeroed("moments", plan.part_moments_size());
            let to = moments.slice(..plan.part_moments_size());
            let buffers = PartBuffers::new(part.x.slice(whole(part)), to, part.workspace.slice(..));
            let step = bn.bind_part_moments(&part.plan, &buffers).unwrap();
            gpu.submit(|pass| step.record(pass));
            gpu.read::<ChannelMoments>(&moments, width)
        })
        .collect();
    let all_moments = gpu.upload("moments", &moments);
    let all_moments = all_moments.slice(..size_of_val(&moments[..]) as u64);
    for (index, part) in parts.iter().enumerate() {
        let x = part.x.slice(whole(part));
        let buffers = TrainingBuffers {
            gamma: Some(gamma.slice(..plan.vector_size())),
            beta: Some(beta.slice(..plan.vector_size())),
            running: Some(RunningStatistics {
                mean: mean.slice(..plan.vector_size()),
                variance: variance.slice(..plan.vector_size()),
                batches_tracked: None,
            }),
            saved: Some(saved.slice(..plan.saved_size())),
            ..TrainingBuffers::new(x, x, part.workspace.slice(..))
        };
        let step = bn.bind_training_from_parts(&part.plan, all_moments, &buffers).unwrap();
        gpu.submit(|pass| if index == 0 { step.record(pass) } else { step.record_without_running_update(pass) });
    }
    let backward = |part: &Part, step: &dyn Fn(&BackwardBuffers<'_>) -> wgpu_batch_norm::Step| {
        let g = part.g.slice(whole(part));
        let step = step(&BackwardBuffers {
            gamma: Some(gamma.slice(..plan.vector_size())),
            saved: Some(saved.slice(..plan.saved_size())),
            input_gradient: Some(Gradient::Overwrite(g)),
            gamma_gradient: Some(Gradient::Accumulate(gamma_gradient.slice(..plan.vector_size()))),
            beta_gradient: Some(Gradient::Accumulate(beta_gradient.slice(..plan.vector_size()))),
            ..BackwardBuffers::new(part.kept.slice(whole(part)), g, part.workspace.slice(..))
        });
        gpu.submit(|pass| step.record(pass));
    };
    let sums: Vec<ChannelGradientSums> = (parts.iter())
        .flat_map(|part| {
            let sums = gpu.zeroed("sums", plan.gradient_sums_size());
            let to = sums.slice(..plan.gradient_sums_size());
            backward(part, &|buffers| bn.bind_part_gradients(&part.plan, to, buffers).unwrap());
            gpu.read::<ChannelGradientSums>(&sums, width)
        })
        .collect();
    let all_sums = gpu.upload("sums", &sums);
    let all_sums = all_sums.slice(..size_of_val(&sums[..]) as u64);
    for part in &parts {
        backward(part, &|buffers| bn.bind_backward_from_parts(&part.plan, all_sums, all_moments, buffers).unwrap());
    }

    let truths = truths(batch);
    let count = batch.problem.count() as f64;
    for part in &parts {
        let elements = part.plan.problem().elements();
        compare(target, "y", &part.x, elements, |index| {
            let index = part.first + index;
            let channel = batch.channel(index);
            let (truth, gamma) = (truths[channel], f64::from(Batch::gamma(channel)));
            let normalised = (f64::from(batch.input(index)) - truth.mean) * truth.inverse;
            let y = gamma * normalised + f64::from(Batch::beta(channel));
            (y, uniform_tolerances(count, gamma, truth.inverse, y)[0])
        });
        compare(target, "dx", &part.g, elements, |index| {
            let index = part.first + index;
            let channel = batch.channel(index);
            let (truth, gamma) = (truths[channel], f64::from(Batch::gamma(channel)));
            let normalised = (f64::from(batch.input(index)) - truth.mean) * truth.inverse;
            let g = f64::from(Batch::gradient(index));
            let dx = gamma * truth.inverse * (g - truth.gradient_mean - normalised * truth.product_mean);
            (dx, uniform_tolerances(count, gamma, truth.inverse, dx)[1])
        });
    }
    let got = |buffer: &wgpu::Buffer| gpu.read::<f32>(buffer, width);
    let records = gpu.read::<ChannelStatistics>(&saved, width);
    for (channel, truth) in truths.iter().enumerate() {
        let [_, _, relative] = uniform_tolerances(count, 1.0, truth.inverse, 0.0);
        let near = |name: &str, got: f32, truth: f64, scale: f64| {
            let error = (f64::from(got) - truth).abs();
            assert!(error <= relative * scale, "{target}: {name} of channel {channel}: {got}, truth {truth}");
        };
        let spread = 1.0 / truth.inverse;
        near(
            "offset",
            (f64::from(records[channel].pivot) - truth.mean + f64::from(records[channel].offset)) as f32,
            0.0,
            spread,
        );
        near("inverse deviation", records[channel].inverse_deviation, truth.inverse, truth.inverse);
        near("running mean", got(mean)[channel], 0.1 * truth.mean, spread + truth.mean);
        let variance_truth = (spread * spread - EPSILON) * count / (count - 1.0);
        near("running variance", got(variance)[channel], 0.9 + 0.1 * variance_truth, 1.0);
        near("dβ", got(beta_gradient)[channel], truth.gradient_mean * count, count);
        near("dγ", got(gamma_gradient)[channel], truth.product_mean * count, 2.0 * count);
    }
}

fn is_large() -> bool {
    std::env::var_os("WGPU_BATCH_NORM_LARGE").is_some_and(|value| value == "1")
}

#[test]
fn a_tensor_beyond_a_binding_is_exact() {
    let large = is_large();
    on_every_target(|target| {
        // Windows are the same for every class of machine; the largest sizes need the memory of one.
        if target.plan > 0 {
            return;
        }
        // Where bindings hold more than a quick test should fill, windows are as large as the smallest that there are.
        let target = &if large { target.in_windows(1 << 30) } else { target.in_windows(128 << 20) };
        let profile = target.kernels.profile();
        let binding = profile.max_storage_buffer_binding_size.min(profile.max_window_size);
        // Two parts of 1.6 GiB, or one that is somewhat larger than a binding.
        let (parts, bytes) = if large { (2, 1_717_986_918) } else { (1, binding + (5 << 20)) };
        for (layout, channels, inner) in [(ChannelsFirst, 3, 65_537), (ChannelsLast, 5, 1)] {
            let steps = bytes / (4 * u64::from(channels) * inner);
            // Unequal.
            let parts: Vec<u64> = (0..parts).map(|part| steps + part).collect();
            let problem = Problem { outer: parts.iter().sum(), channels, inner };
            check(target, layout, &Batch { problem, parts });
        }
    });
}

/// The bits of ±1 to ±2 in bf16, by an element's place among those of all buffers.
fn places_in_bf16(index: u64) -> u32 {
    let mixed = ((index ^ index >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
    0x3f80 | mixed & 0x7f | (mixed & 0x80) << 8
}

/// Inference on a batch whose parts have a buffer each; with `WGPU_BATCH_NORM_LARGE=1` 4.4·10⁹ elements in all. Results are looked at
/// where parts and windows begin and end, and between.
#[test]
fn more_elements_in_place_than_thirty_two_bits_count_are_exact() {
    const CHANNELS: u32 = 5;
    let (parts, elements, window) = if is_large() { (5, 880_000_000_u64, 1 << 30) } else { (3, 4_000_000, 1 << 20) };
    on_every_target(|target| {
        // Windows are the same for every class of machine; the largest sizes need the memory of one.
        if target.plan > 0 {
            return;
        }
        let (target, gpu) = (&target.in_windows(window), &target.gpu);
        let convention = Convention { epsilon: EPSILON, ..Convention::pytorch() };
        let (layout, element) = (ChannelsLast, ElementType::Bf16);
        let descriptor = BatchNormDescriptor { channels: CHANNELS, layout, element, convention, ..Default::default() };
        let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
        let plan = bn.plan(&Shape::flat((elements / u64::from(CHANNELS)) as usize, CHANNELS as usize, 1)).unwrap();
        assert!(plan.window_count() > 1 && plan.problem().elements() == elements, "{target}");
        let vector = |label: &str, value: fn(usize) -> f32| {
            gpu.upload(label, &(0..CHANNELS as usize).map(value).collect::<Vec<_>>())
        };
        let (gamma, beta) = (vector("gamma", Batch::gamma), vector("beta", Batch::beta));
        let (mean, variance) = (|channel| 0.2 * channel as f32 - 0.3, |channel| 0.5 + 0.25 * channel as f32);
        let (means, variances) = (vector("mean", mean), vector("variance", variance));
        let whole = ..plan.tensor_size();
        // All of them at once, so that none takes the memory of another.
        let buffers: Vec<_> = (0..parts).map(|_| gpu.zeroed("x and y", plan.tensor_size())).collect();
        for (part, buffer) in (0..).zip(&buffers) {
            for start in (0..elements).step_by(2 * CHUNK as usize) {
                let places = (start..(start + 2 * CHUNK).min(elements)).step_by(2);
                let pair = |index: u64| places_in_bf16(index) | places_in_bf16(index + 1) << 16;
                let words: Vec<u32> = places.map(|index| pair(part * elements + index)).collect();
                gpu.queue.write_buffer(buffer, 2 * start, bytemuck::cast_slice(&words));
                // Staged values do not pile up.
                gpu.queue.submit([]);
                gpu.wait();
            }
        }
        for buffer in &buffers {
            let (tensor, each) = (buffer.slice(whole), ..plan.vector_size());
            let buffers = InferenceBuffers {
                gamma: Some(gamma.slice(each)),
                beta: Some(beta.slice(each)),
                ..InferenceBuffers::new(tensor, tensor, means.slice(each), variances.slice(each))
            };
            let step = bn.bind_inference(&plan, &buffers).unwrap();
            gpu.submit(|pass| step.record(pass));
            gpu.wait();
        }
        let (mut looked_at, mut past) = (0_u64, 0_u64);
        for (part, buffer) in (0..).zip(&buffers) {
            let windows = (0..=plan.tensor_size()).step_by(window as usize / 8);
            for near in windows.chain([plan.tensor_size()]) {
                let length = (64_u64 << 10).min(plan.tensor_size());
                let start = near.saturating_sub(length / 2).min(plan.tensor_size() - length) / 4 * 4;
                let words: Vec<u32> = gpu.read_from(buffer, start, length as usize / 4);
                let values = words.iter().flat_map(|word| [word << 16, word & 0xffff_0000]);
                for (index, bits) in (start / 2..).zip(values) {
                    let (place, channel) = (part * elements + index, (index % u64::from(CHANNELS)) as usize);
                    let x = f64::from(f32::from_bits(places_in_bf16(place) << 16));
                    let deviation = (f64::from(variance(channel)) + EPSILON).sqrt();
                    let scaled = f64::from(Batch::gamma(channel)) * (x - f64::from(mean(channel))) / deviation;
                    let y = scaled + f64::from(Batch::beta(channel));
                    let (got, allowed) = (f64::from(f32::from_bits(bits)), bf16_inference_tolerance(scaled, y));
                    assert!((got - y).abs() <= allowed, "{target}: y[{place}] = {got}, truth {y}, allowed {allowed:e}");
                    looked_at += 1;
                    past += u64::from(place > u64::from(u32::MAX));
                }
            }
        }
        println!("{target}: {} elements, {looked_at} looked at, {past} past the last of 32 bits", parts * elements);
        assert!(!is_large() || past > 1 << 16, "{past} of {looked_at}");
    });
}
