//! Folding: a layer alone gives what it gave with inference after it.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::{BatchNorm, FoldBuffers, InferenceBuffers};
use wgpu_batch_norm::{Activation, BatchNormDescriptor, Shape};

/// A convolution at one place is a matrix product: `patch` inputs to `outputs` channels.
fn layer(weight: impl Fn(usize, usize) -> f64, bias: Option<&[f64]>, x: &[f64], outputs: usize) -> Vec<f64> {
    (0..outputs)
        .map(|o| x.iter().enumerate().map(|(i, x)| weight(o, i) * x).sum::<f64>() + bias.map_or(0.0, |bias| bias[o]))
        .collect()
}

proptest! {
    #[test]
    fn a_folded_layer_gives_what_inference_made_of_the_layer(
        outputs in 1..6_usize, inputs in 1..4_usize, kernel in 1..5_usize, optional in 0..8_u32, seed in 0..1000_u64,
        activation in prop_oneof![Just(Activation::Identity), Just(Activation::Relu), Just(Activation::Gelu)],
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut uniform = |count: usize, low: f64, high: f64| -> Vec<f64> {
            (0..count).map(|_| rng.random_range(low..high)).collect()
        };
        let patch = inputs * kernel;
        let (weight, x) = (uniform(outputs * patch, -1.0, 1.0), uniform(patch, -2.0, 2.0));
        let bias = Some(uniform(outputs, -1.0, 1.0)).filter(|_| optional & 1 != 0);
        let gamma = Some(uniform(outputs, -1.5, 1.5)).filter(|_| optional & 2 != 0);
        let beta = Some(uniform(outputs, -1.0, 1.0)).filter(|_| optional & 4 != 0);
        let (mean, variance) = (uniform(outputs, -1.0, 1.0), uniform(outputs, 0.0, 2.0));

        let descriptor = BatchNormDescriptor { channels: outputs as u32, activation, ..Default::default() };
        let bn = BatchNorm::new(&descriptor).unwrap();
        let before = layer(|o, i| weight[o * patch + i], bias.as_deref(), &x, outputs);
        let mut expected = vec![0.0; outputs];
        bn.inference(&bn.plan(&Shape::flat(1, outputs, 1)).unwrap(), InferenceBuffers {
            input: &before,
            output: &mut expected,
            gamma: gamma.as_deref(),
            beta: beta.as_deref(),
            running_mean: &mean,
            running_variance: &variance,
            ..Default::default()
        }).unwrap();

        let fold = |weight: &[f64], shape: Shape| {
            let (mut folded_weight, mut folded_bias) = (vec![f64::NAN; outputs * patch], vec![f64::NAN; outputs]);
            bn.fold(&bn.plan(&shape).unwrap(), FoldBuffers {
                weight,
                bias: bias.as_deref(),
                gamma: gamma.as_deref(),
                beta: beta.as_deref(),
                running_mean: &mean,
                running_variance: &variance,
                folded_weight: &mut folded_weight,
                folded_bias: &mut folded_bias,
            }).unwrap();
            (folded_weight, folded_bias)
        };
        // [O, I, k] as PyTorch has it, and [k, I, O] as Keras has it.
        let (folded, folded_bias) = fold(&weight, Shape::flat(1, outputs, patch));
        let keras: Vec<f64> = (0..outputs * patch)
            .map(|index| {
                let (k, i, o) = (index / (inputs * outputs), index / outputs % inputs, index % outputs);
                weight[(o * inputs + i) * kernel + k]
            })
            .collect();
        let (folded_keras, bias_keras) = fold(&keras, Shape::flat(patch, outputs, 1));
        prop_assert_eq!(&bias_keras, &folded_bias);
        for (index, value) in folded_keras.iter().enumerate() {
            let (k, i, o) = (index / (inputs * outputs), index / outputs % inputs, index % outputs);
            prop_assert_eq!(*value, folded[(o * inputs + i) * kernel + k]);
        }
        for (t, expected) in layer(|o, i| folded[o * patch + i], Some(&folded_bias), &x, outputs).iter().zip(expected) {
            // A variance near 0 makes the factor up to 1/√ε, about 316.
            let (y, scale) = (activation.value(*t), 316.0 * patch as f64 * 4.0);
            prop_assert!((y - expected).abs() < 1e-15 * scale, "{} for {}", y, expected);
        }
    }
}
