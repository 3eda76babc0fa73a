//! Folding inference into the layer before it.

use crate::common::case::{Case, loaded, stored};
use crate::common::on_every_target_and_in_windows;
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{BatchNorm, ElementType, FoldBuffers, Shape, reference};

/// Weights by their output channel: of convolutions and linear layers, with it first and last, aligned and not.
const WEIGHTS: [(&[usize], Layout); 4] = [
    (&[1, 16, 8 * 9], ChannelsFirst),
    (&[1, 7, 5 * 9], ChannelsFirst),
    (&[9 * 5, 6], ChannelsLast),
    (&[3, 11, 3], ChannelsFirst),
];

#[test]
fn folding_meets_the_reference_with_and_without_its_optional_parts() {
    // Folding has no plans of its own for a class of machine.
    on_every_target_and_in_windows(|target| {
        // The plans of one class will do.
        if target.plan > 0 {
            return;
        }
        let gpu = &target.gpu;
        for (seed, (shape, layout)) in (0..).zip(WEIGHTS) {
            for (element, optional, in_place) in [
                (ElementType::F32, true, false),
                (ElementType::F32, false, true),
                (ElementType::F16, true, true),
                (ElementType::Bf16, false, false),
            ] {
                let case = Case::random(shape, layout, seed).stored_as(element);
                let (weight, channels) = (&case.input, case.channels());
                let (gamma, beta) = (case.gamma.as_deref().unwrap(), case.beta.as_deref().unwrap());
                let bias: Vec<f32> = (0..channels).map(|channel| 0.3 * channel as f32 - 1.0).collect();
                let given = |values| optional.then_some(values);

                let plain = reference::BatchNorm::new(&case.descriptor()).unwrap();
                let (mut folded_weight, mut folded_bias) = (vec![0.0; weight.len()], vec![0.0; channels]);
                plain
                    .fold(
                        &plain.plan(&Shape::new(shape).unwrap()).unwrap(),
                        reference::FoldBuffers {
                            weight,
                            bias: given(&bias[..]),
                            gamma: given(gamma),
                            beta: given(beta),
                            running_mean: &case.running_mean,
                            running_variance: &case.running_variance,
                            folded_weight: &mut folded_weight,
                            folded_bias: &mut folded_bias,
                        },
                    )
                    .unwrap();

                let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
                let plan = bn.plan(&Shape::new(shape).unwrap()).unwrap();
                let vector = |values: &[f32]| gpu.upload("vector", values);
                let [bias, gamma, beta] = [&bias[..], gamma, beta].map(vector);
                let [mean, variance] = [&case.running_mean[..], &case.running_variance].map(vector);
                let tensor = gpu.upload("weight", &stored(element, weight));
                let apart = gpu.zeroed("folded_weight", plan.tensor_size());
                let target_weight = if in_place { &tensor } else { &apart };
                let result = gpu.zeroed("folded_bias", plan.vector_size());
                let (whole, each) = (..plan.tensor_size(), ..plan.vector_size());
                let step = bn
                    .bind_fold(
                        &plan,
                        &FoldBuffers {
                            weight: tensor.slice(whole),
                            bias: optional.then(|| bias.slice(each)),
                            gamma: optional.then(|| gamma.slice(each)),
                            beta: optional.then(|| beta.slice(each)),
                            running_mean: mean.slice(each),
                            running_variance: variance.slice(each),
                            folded_weight: target_weight.slice(whole),
                            folded_bias: result.slice(each),
                        },
                    )
                    .unwrap();
                gpu.submit(|pass| step.record(pass));

                let words = gpu.read::<u32>(target_weight, plan.tensor_size() as usize / 4);
                let unit = match element {
                    ElementType::F16 => 2_f32.powi(-11),
                    ElementType::Bf16 => 2_f32.powi(-8),
                    _ => 0.0,
                };
                // A reciprocal square root, two products and, for the bias, a difference and a sum.
                let rounding = 12.0 * f32::EPSILON;
                let place = format!("{target}: {shape:?} {layout:?} {element} {optional}");
                for (got, truth) in loaded(element, &words, weight.len()).into_iter().zip(folded_weight) {
                    assert!((got - truth).abs() <= (unit + rounding) * truth.abs() + 1e-7, "{place}: {got} {truth}");
                }
                for (got, truth) in gpu.read::<f32>(&result, channels).into_iter().zip(folded_bias) {
                    assert!((got - truth).abs() <= rounding * (1.0 + truth.abs()) * 4.0, "{place}: {got} {truth}");
                }
            }
        }
    });
}
