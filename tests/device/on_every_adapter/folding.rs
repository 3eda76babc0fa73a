//! Folding inference into the layer before it.

use crate::common::case::{Case, POISON, loaded, stored};
use crate::common::memory::Memory;
use crate::common::tolerance::compare_folded;
use crate::common::{Target, on_every_target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{BatchNorm, Error, FoldBuffers, reference};

/// Weights by their output channel: of convolutions and linear layers, with it first and last, aligned and not; then any.
const WEIGHTS: [(&[usize], Layout); 4] = [
    (&[1, 16, 8 * 9], ChannelsFirst),
    (&[1, 7, 5 * 9], ChannelsFirst),
    (&[9 * 5, 6], ChannelsLast),
    (&[3, 11, 3], ChannelsFirst),
];

/// Weights as the input, with anything else from the seed: element type, gamma, beta and bias, in place, segments.
fn arbitrary(seed: u64) -> (Case, Option<Vec<f32>>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let some = |rng: &mut StdRng| {
        let shape = (0..rng.random_range(2..5)).map(|_| rng.random_range(1..14)).collect();
        (shape, if rng.random() { ChannelsFirst } else { ChannelsLast })
    };
    let (shape, layout): (Vec<usize>, _) = match WEIGHTS.get(rng.random_range(0..2 * WEIGHTS.len())) {
        Some(&(shape, layout)) => (shape.to_vec(), layout),
        None => some(&mut rng),
    };
    let mut case = Case::arbitrary(&shape, layout, seed);
    for gamma in case.gamma.iter_mut().flatten() {
        *gamma *= if rng.random() { 1.0 } else { -1.0 };
    }
    // Inference leaves room for channels that hardly vary.
    for variance in case.running_variance.iter_mut().filter(|_| rng.random_bool(0.2)) {
        *variance *= 1e-6;
    }
    let bias = (0..case.channels()).map(|_| rng.random_range(-2.0..2.0)).collect();
    (case, rng.random_bool(0.7).then_some(bias))
}

pub(super) fn fold_on_reference(case: &Case, bias: Option<&[f32]>) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let bn = reference::BatchNorm::new(&case.descriptor())?;
    let (mut folded_weight, mut folded_bias) = (vec![POISON; case.input.len()], vec![POISON; case.channels()]);
    let buffers = reference::FoldBuffers {
        weight: &case.input,
        bias,
        gamma: case.gamma.as_deref(),
        beta: case.beta.as_deref(),
        running_mean: &case.running_mean,
        running_variance: &case.running_variance,
        folded_weight: &mut folded_weight,
        folded_bias: &mut folded_bias,
    };
    bn.fold(&bn.plan(&case.shape())?, buffers)?;
    Ok((folded_weight, folded_bias))
}

pub(super) fn fold_on_device(
    target: &Target,
    case: &Case,
    bias: Option<&[f32]>,
) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let memory = Memory::new(target);
    let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor())?;
    let plan = bn.plan(&case.shape())?;
    let tensor = |values: &[f32]| memory.upload("tensor", &stored(case.element, values));
    let vector = |values: &[f32]| memory.upload("vector", values);
    let [bias, gamma, beta] = [bias, case.gamma.as_deref(), case.beta.as_deref()].map(|values| values.map(vector));
    let [mean, variance] = [&case.running_mean[..], &case.running_variance].map(vector);
    let (weight, apart) = (tensor(&case.input), tensor(&vec![POISON; case.input.len()]));
    let folded_weight = if case.in_place { &weight } else { &apart };
    let folded_bias = vector(&vec![POISON; case.channels()]);
    let (whole, each) = (..plan.tensor_size(), ..plan.vector_size());
    let buffers = FoldBuffers {
        weight: weight.slice(whole),
        bias: bias.as_ref().map(|buffer| buffer.slice(each)),
        gamma: gamma.as_ref().map(|buffer| buffer.slice(each)),
        beta: beta.as_ref().map(|buffer| buffer.slice(each)),
        running_mean: mean.slice(..plan.running_size()),
        running_variance: variance.slice(..plan.running_size()),
        folded_weight: folded_weight.slice(whole),
        folded_bias: folded_bias.slice(each),
    };
    let step = bn.bind_fold(&plan, &buffers)?;
    target.gpu.submit(|pass| step.record(pass));
    memory.assert_gaps_are_untouched();
    let words = memory.read::<u32>(folded_weight, plan.tensor_size() as usize / 4);
    Ok((loaded(case.element, &words, case.input.len()), memory.read(&folded_bias, case.channels())))
}

#[test]
fn folding_meets_the_reference_whatever_the_layout_element_segments_and_optional_parts() {
    on_every_target(|target| {
        // Folding has no plans of its own for a class of machine: those of one class will do.
        if target.plan > 0 {
            return;
        }
        let (mut compared, mut segmented, mut refused, mut windowed) = (0, 0, 0, 0);
        for seed in 0..90 {
            let (case, bias) = arbitrary(seed);
            let cut = (seed % 4 == 0).then(|| fold_on_device(&target.in_windows(1 << 10), &case, bias.as_deref()));
            let windows = cut.is_some();
            let got = cut.unwrap_or_else(|| fold_on_device(target, &case, bias.as_deref()));
            let truth = fold_on_reference(&case, bias.as_deref());
            let ((got_weight, got_bias), (weight, truth_bias)) = match (got, truth) {
                (Err(Error::SharedWords { .. }), _) => continue,
                // One set of weights takes one set of statistics.
                (Err(Error::SegmentedFold), Err(Error::SegmentedFold)) => {
                    refused += 1;
                    continue;
                }
                (got, truth) => (got.unwrap(), truth.unwrap()),
            };
            let worst = compare_folded(&case, bias.as_deref(), (&got_weight, &got_bias), (&weight, &truth_bias));
            assert!(worst.ratio <= 1.0, "{target}: seed {seed}: {worst:?} in {case:?}");
            compared += 1;
            segmented += usize::from(case.segmentation().segments() > 1);
            windowed += usize::from(windows && case.input.len() > 256);
        }
        assert!(
            compared > 50 && segmented > 5 && refused > 5 && windowed > 5,
            "{compared} {segmented} {refused} {windowed}"
        );
    });
}

/// The bias that comes of it is the difference of two large numbers where the layer's own bias is as large.
#[test]
fn large_running_means_cost_no_digits_when_folded() {
    on_every_target(|target| {
        if target.plan > 0 {
            return;
        }
        for (seed, (shape, layout)) in (0..).zip(WEIGHTS) {
            for mean in [1e4_f32, 1e6, 1e7] {
                let mut case = Case::random(shape, layout, seed);
                for (channel, value) in case.running_mean.iter_mut().enumerate() {
                    *value += if channel.is_multiple_of(2) { mean } else { -mean };
                }
                let bias: Vec<f32> = case.running_mean.iter().map(|value| value + 3.0).collect();
                let (got, truth) = (fold_on_device(target, &case, Some(&bias)), fold_on_reference(&case, Some(&bias)));
                let (got, truth) = (got.unwrap(), truth.unwrap());
                let worst = compare_folded(&case, Some(&bias), (&got.0, &got.1), (&truth.0, &truth.1));
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} mean {mean}: {worst:?}");
            }
        }
    });
}
