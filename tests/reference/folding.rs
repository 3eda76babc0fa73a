//! Folding: a layer alone gives what it gave with inference after it.

use half::{bf16, f16};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::reference::Element;
use wgpu_batch_norm::reference::{BatchNorm, FoldBuffers, InferenceBuffers};
use wgpu_batch_norm::{Activation, BatchNormDescriptor, Convention, Error, SegmentRunning, Shape};

use super::case::SHAPES;

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

/// Weights of an element type, folded with their other parts in f32.
struct Folding {
    bn: BatchNorm,
    shape: Shape,
    weight: Vec<f64>,
    bias: Option<Vec<f32>>,
    gamma: Option<Vec<f32>>,
    beta: Option<Vec<f32>>,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Folding {
    fn run<T: Element<Parameter = f32>>(&self) -> Result<(Vec<f64>, Vec<f32>), Error> {
        let weight: Vec<T> = self.weight.iter().map(|&value| T::from_f64(value)).collect();
        let mut folded_weight = vec![T::from_f64(f64::NAN); weight.len()];
        let mut folded_bias = vec![f32::NAN; self.mean.len()];
        self.bn.fold(
            &self.bn.plan(&self.shape)?,
            FoldBuffers {
                weight: &weight,
                bias: self.bias.as_deref(),
                gamma: self.gamma.as_deref(),
                beta: self.beta.as_deref(),
                running_mean: &self.mean,
                running_variance: &self.variance,
                folded_weight: &mut folded_weight,
                folded_bias: &mut folded_bias,
            },
        )?;
        Ok((folded_weight.into_iter().map(Element::to_f64).collect(), folded_bias))
    }

    /// The formulas, element by element, rounded once.
    fn expected<T: Element<Parameter = f32>>(&self) -> (Vec<f64>, Vec<f32>) {
        let problem = self.shape.problem(self.bn.descriptor().layout).unwrap();
        let value = |values: &Option<Vec<f32>>, channel: usize, absent| {
            values.as_ref().map_or(absent, |values| f64::from(values[channel]))
        };
        let scale = |channel: usize| {
            let variance = f64::from(self.variance[channel]) + self.bn.descriptor().convention.epsilon;
            value(&self.gamma, channel, 1.0) * (1.0 / variance.sqrt())
        };
        let channel = |index: usize| index / problem.inner as usize % problem.channels as usize;
        let weight = self.weight.iter().enumerate();
        let weight = weight.map(|(index, &w)| T::from_f64(T::from_f64(w).to_f64() * scale(channel(index))).to_f64());
        let bias = (0..self.mean.len()).map(|channel| {
            let centred = value(&self.bias, channel, 0.0) - f64::from(self.mean[channel]);
            (centred * scale(channel) + value(&self.beta, channel, 0.0)) as f32
        });
        (weight.collect(), bias.collect())
    }

    fn check<T: Element<Parameter = f32>>(&self, refused: bool) -> Result<(), TestCaseError> {
        match self.run::<T>() {
            Err(error) => prop_assert!(refused && error == Error::SegmentedFold, "{}", error),
            Ok(got) => {
                prop_assert!(!refused);
                prop_assert_eq!(got, self.expected::<T>());
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn folding_is_its_formula_in_every_layout_and_element_type_and_takes_one_set_of_statistics(
        shape in 0..SHAPES.len(), optional in 0..8_u32, segments in 0..2_usize, running in 0..3_usize, seed in 0..1000_u64,
    ) {
        let (dims, layout) = SHAPES[shape];
        let running = [SegmentRunning::InTurn, SegmentRunning::Averaged, SegmentRunning::Separate][running];
        let channels = dims[layout.channel_axis(dims.len())];
        let mut rng = StdRng::seed_from_u64(seed);
        let mut uniform = |count: usize, low: f32, high: f32| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(low..high)).collect()
        };
        let weight = uniform(dims.iter().product(), -1.0, 1.0).into_iter().map(f64::from).collect();
        let convention = Convention { segment_running: running, ..Convention::pytorch() };
        let descriptor = BatchNormDescriptor { channels: channels as u32, layout, convention, ..Default::default() };
        let whole = Shape::new(dims).unwrap();
        let folding = Folding {
            bn: BatchNorm::new(&descriptor).unwrap(),
            shape: if segments == 1 { whole.with_segments_along(0).unwrap() } else { whole },
            weight,
            bias: Some(uniform(channels, -1.0, 1.0)).filter(|_| optional & 1 != 0),
            gamma: Some(uniform(channels, -1.5, 1.5)).filter(|_| optional & 2 != 0),
            beta: Some(uniform(channels, -1.0, 1.0)).filter(|_| optional & 4 != 0),
            mean: uniform(channels, -1.0, 1.0),
            variance: uniform(channels, 0.0, 2.0),
        };
        let refused = segments == 1 && running == SegmentRunning::Separate;
        folding.check::<f32>(refused)?;
        folding.check::<f16>(refused)?;
        folding.check::<bf16>(refused)?;
    }
}
